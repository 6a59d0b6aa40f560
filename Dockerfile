# The installation of `make install`, without its tools for development, as an image: for KubeRay (cluster/rayjob.yaml),
# or alone. For a CPU, and for GPUs:
#   docker build --tag sadm-ray:cpu .
#   docker build --tag sadm-ray:gpu --build-arg BASE=rayproject/ray:2.60.0-py311-gpu --build-arg TORCH_INDEX= .
#   docker run --rm --shm-size 2g --volume "$PWD/runs:/home/ray/sadm-ray/runs" sadm-ray:cpu sadm-ray run
# The folder `runs` has to be writable for the user 1000. It has not been built by us yet.

# Ray as in constraints.txt, Python 3.11, and what KubeRay expects of an image. Its user is ray (1000), not root.
ARG BASE=rayproject/ray:2.60.0-py311-cpu
FROM ${BASE}

# Where a build of PyTorch for this device is, beside PyPI. None: PyPI's own, which is the one for CUDA; for an older
# driver, the index of its CUDA (https://download.pytorch.org/whl/cu…).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Patients' data is near: nothing is reported anywhere.
ENV RAY_USAGE_STATS_ENABLED=0

RUN mkdir --parents /home/ray/sadm-ray/runs
WORKDIR /home/ray/sadm-ray

# What is installed changes with these files alone, and is not done again when the code changes.
COPY --chown=1000:100 pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY --chown=1000:100 sadm_ray/__init__.py sadm_ray/
COPY --chown=1000:100 configs/phantom.yaml configs/
RUN python -m pip install --no-cache-dir --constraint constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --editable '.[eval]'

COPY --chown=1000:100 sadm_ray sadm_ray
COPY --chown=1000:100 pipelines pipelines
COPY --chown=1000:100 configs configs

USER 1000
CMD ["sadm-ray", "--help"]
