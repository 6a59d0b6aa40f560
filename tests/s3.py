"""An S3 bucket that is a thread of this process: moto's server on the loopback."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from pyarrow import fs


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URL of an empty bucket, which all tests of a session share: write below a folder of your own.

    pyarrow and every process that is started from now on find the server through the environment; the tests' Ray, too,
    which is started after it.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")  # no other credentials are looked up
        environment.setenv("NO_PROXY", host)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
            environment.delenv(name, raising=False)
        system, bucket = fs.FileSystem.from_uri("s3://studies?allow_bucket_creation=true")
        system.create_dir(bucket)
        yield "s3://studies"
    server.stop()
