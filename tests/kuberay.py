"""The fields of KubeRay's RayJob that `cluster/rayjob.yaml` uses, as a closed JSON schema of our own.

Names and types are those of ray.io/v1 in KubeRay 1.7.0 (its chart's crds/ray.io_rayjobs.yaml). Kubernetes drops a
field that it does not know without a word; here it is an error.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
LABELS: Schema = {"type": "object", "additionalProperties": STRING}
QUANTITIES: Schema = {"type": "object", "additionalProperties": {"type": ["integer", "string"]}}


def fields(*required: str, **known: Schema) -> Schema:
    """A mapping of these fields and no others."""
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def items(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


_CONTAINER = fields(
    "name",
    name=STRING,
    image=STRING,
    resources=fields(requests=QUANTITIES, limits=QUANTITIES),
    env=items(fields("name", name=STRING, value=STRING)),
    volumeMounts=items(fields("name", "mountPath", name=STRING, mountPath=STRING, readOnly=BOOLEAN)),
)
_POD = fields(
    "containers",
    serviceAccountName=STRING,
    securityContext=fields(runAsNonRoot=BOOLEAN, runAsUser=COUNT, fsGroup=COUNT),
    nodeSelector=LABELS,
    tolerations=items(fields(key=STRING, operator=STRING, value=STRING, effect=STRING)),
    containers=items(_CONTAINER),
    volumes=items(fields("name", name=STRING, persistentVolumeClaim=fields("claimName", claimName=STRING))),
)
_TEMPLATE = fields(metadata=fields(labels=LABELS, annotations=LABELS), spec=_POD)
_CLUSTER = fields(
    "headGroupSpec",
    rayVersion=STRING,
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=STRING),
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=fields(idleTimeoutSeconds=COUNT),
    headGroupSpec=fields("template", rayStartParams=LABELS, template=_TEMPLATE),
    workerGroupSpecs=items(
        fields(
            *("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=STRING,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=LABELS,
            template=_TEMPLATE,
        )
    ),
)
RAY_JOB = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields("name", name=STRING, namespace=STRING, labels=LABELS),
    spec=fields(
        entrypoint=STRING,
        runtimeEnvYAML=STRING,
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        shutdownAfterJobFinishes=BOOLEAN,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=_CLUSTER,
    ),
)
