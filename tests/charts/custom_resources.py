# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Schemas of the operators' resources, only with the fields that the charts use."""

from __future__ import annotations

from typing import Any, Final


def _closed(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


def _resource(spec: dict[str, Any]) -> dict[str, Any]:
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = _closed("name namespace labels", name=_NAME, namespace=_NAME, labels=texts, annotations=texts)
    return _closed("apiVersion kind metadata spec", apiVersion=_TEXT, kind=_TEXT, metadata=metadata, spec=spec)


_TEXT: Final = {"type": "string", "minLength": 1}
_NAME: Final = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
_DURATION: Final = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
_COUNT: Final = {"type": "integer", "minimum": 1}

SCHEMAS: Final[dict[tuple[str, str], dict[str, Any]]] = {
    # github.com/nats-io/nack, pkg/jetstream/apis/jetstream/v1beta2: KeyValueSpec and the BaseStreamConfig within it
    ("jetstream.nats.io/v1beta2", "KeyValue"): _resource(
        _closed(
            "bucket history maxValueSize storage replicas preventDelete",
            bucket={"type": "string", "pattern": "^[-_a-zA-Z0-9]+$"},
            history={"const": 1},  # a read by revision is never made, and history costs
            maxValueSize=_COUNT,
            maxBytes=_COUNT,
            ttl=_DURATION,
            storage={"enum": ["file", "memory"]},
            replicas={"type": "integer", "minimum": 1, "maximum": 5},
            preventDelete={"const": True},
        )
    ),
    # the same: StreamSpec
    ("jetstream.nats.io/v1beta2", "Stream"): _resource(
        _closed(
            "name subjects retention discard maxAge maxBytes duplicateWindow storage replicas preventDelete",
            name={"type": "string", "pattern": "^[^.*>]*$"},
            subjects={"type": "array", "minItems": 1, "items": _TEXT},
            retention={"enum": ["limits", "interest", "workqueue"]},
            discard={"enum": ["old", "new"]},
            maxAge=_DURATION,
            maxBytes=_COUNT,
            duplicateWindow=_DURATION,
            storage={"enum": ["file", "memory"]},
            replicas={"type": "integer", "minimum": 1, "maximum": 5},
            preventDelete={"const": True},
        )
    ),
    # keda.sh/docs: "ScaledObject specification", "AWS SQS Queue", "AWS (IRSA) Pod Identity Webhook"
    ("keda.sh/v1alpha1", "ScaledObject"): _resource(
        _closed(
            "scaleTargetRef minReplicaCount maxReplicaCount triggers",
            scaleTargetRef=_closed("name", apiVersion=_TEXT, kind=_TEXT, name=_NAME, envSourceContainerName=_NAME),
            minReplicaCount=_COUNT,
            maxReplicaCount=_COUNT,
            pollingInterval=_COUNT,
            cooldownPeriod={"type": "integer", "minimum": 0},
            fallback=_closed("failureThreshold replicas", failureThreshold=_COUNT, replicas=_COUNT),
            triggers={
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": _closed(
                    "type metadata authenticationRef",
                    type={"const": "aws-sqs-queue"},
                    metadata=_closed(
                        "queueURLFromEnv queueLength awsRegion",
                        queueURLFromEnv=_TEXT,
                        queueLength={"type": "string", "pattern": "^[0-9]+$"},  # the map takes text only
                        awsRegion=_TEXT,
                    ),
                    authenticationRef=_closed("name", name=_NAME),
                ),
            },
        )
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): _resource(
        _closed(
            "podIdentity",
            podIdentity=_closed(
                "provider identityOwner", provider={"const": "aws"}, identityOwner={"enum": ["keda", "workload"]}
            ),
        )
    ),
    # external-secrets.io: "ExternalSecret", "SecretStore", "AWS Secrets Manager"
    ("external-secrets.io/v1", "SecretStore"): _resource(
        _closed(
            "provider",
            provider=_closed(
                "aws",
                aws=_closed(
                    "service region auth",
                    service={"const": "SecretsManager"},
                    region=_TEXT,
                    auth=_closed(
                        "jwt", jwt=_closed("serviceAccountRef", serviceAccountRef=_closed("name", name=_NAME))
                    ),
                ),
            ),
        )
    ),
    ("external-secrets.io/v1", "ExternalSecret"): _resource(
        _closed(
            "refreshInterval secretStoreRef target data",
            refreshInterval={"type": "string", "pattern": "^([0-9]+(s|m|h))+$"},
            secretStoreRef=_closed("kind name", kind={"const": "SecretStore"}, name=_NAME),
            target=_closed(
                "name creationPolicy deletionPolicy",
                name=_NAME,
                creationPolicy={"const": "Owner"},
                deletionPolicy={"const": "Retain"},
            ),
            data={
                "type": "array",
                "minItems": 1,
                "items": _closed(
                    "secretKey remoteRef", secretKey=_TEXT, remoteRef=_closed("key", key=_TEXT, property=_TEXT)
                ),
            },
        )
    ),
    # prometheus-operator.dev: "API reference", PodMonitorSpec and PrometheusRuleSpec
    ("monitoring.coreos.com/v1", "PodMonitor"): _resource(
        _closed(
            "selector podMetricsEndpoints",
            selector=_closed("matchLabels", matchLabels={"type": "object", "minProperties": 1}),
            podMetricsEndpoints={
                "type": "array",
                "minItems": 1,
                "items": _closed("port path interval", port=_NAME, path=_TEXT, interval=_DURATION),
            },
        )
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _resource(
        _closed(
            "groups",
            groups={
                "type": "array",
                "minItems": 1,
                "items": _closed(
                    "name rules",
                    name=_TEXT,
                    rules={
                        "type": "array",
                        "minItems": 1,
                        "items": _closed(
                            "alert expr for labels annotations",
                            alert={"type": "string", "pattern": "^[A-Za-z]+$"},
                            expr=_TEXT,
                            **{"for": _DURATION},
                            labels={"type": "object", "additionalProperties": _TEXT},
                            annotations={"type": "object", "additionalProperties": _TEXT},
                        ),
                    },
                ),
            },
        )
    ),
}
