# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Values that switch on one feature each, and everything at once."""

from __future__ import annotations

from typing import Any, Final

from tests.charts import chart

_ROLE: Final = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/email"}
_EVENTING: Final[dict[str, Any]] = {"app": {"ses": {"eventingEnabled": True}}}
_SECRETS: Final = {"externalSecretsOperator": {"enabled": True}, "global": {"awsRegion": "us-west-2"}}
_COLLECTOR: Final = {"protocol": "http", "endpoint": "collector.lfx:4318", "insecure": "true", "tracesExporter": "otlp"}
_POLICY: Final[dict[str, Any]] = {"networkPolicy": {"enabled": True}, "app": {"otel": _COLLECTOR}}
_CREDENTIALS: Final[dict[str, Any]] = {"nats": {"credsSecretName": "nats-creds", "urlSecretName": "nats-url"}}
_TELEMETRY: Final[dict[str, Any]] = {
    "app": {"otel": {**_COLLECTOR, "serviceName": "email", "tracesSampler": "traceidratio", "tracesSamplerArg": 0.25}}
}
_METRICS: Final = {
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "grafanaDashboard": {"enabled": True, "annotations": {"grafana_folder": "LFX"}},
    }
}
_BUDGET: Final = {"podDisruptionBudget": {"minAvailable": "50%"}}

_RETENTION: Final = {"enabled": True, "olderThan": "52w"}
_OF_RETENTION: Final = {"credsSecretName": "retention-creds", "inboxPrefix": "_INBOX.retention"}

_FULL: Final[dict[str, Any]] = {
    "image": {"tag": "1.2.3", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"example.com/team": "platform"},
    "podLabels": {"team": "platform"},
    "podDisruptionBudget": {"maxUnavailable": 1},
    "priorityClassName": "important",
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "terminationGracePeriodSeconds": 60,
    "service": {"port": 9090},
    "networkPolicy": {
        "enabled": True,
        "ingressFrom": [{"namespaceSelector": {}}],
        "extraEgress": [{"ports": [{"port": 8443, "protocol": "TCP"}]}],
    },
    "nats": {"url": "tls://a.example:4223,tls://u:123@b.example", "credsSecretName": "nats-creds"},
    "serviceAccount": {"name": "email", "annotations": _ROLE},
    **_METRICS,
    **_SECRETS,
}
_APP: Final[dict[str, Any]] = {
    "logLevel": "debug",
    "logAddSource": False,
    "shutdownTimeoutSeconds": 40,
    "ses": {"eventingEnabled": True},
    "extraEnv": [
        {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "SSL_CERT_FILE", "value": "/etc/ssl/certs/ca-certificates.crt"},
    ],
    "otel": {**_TELEMETRY["app"]["otel"], "endpoint": "http://$(HOST_IP):4318", "serviceVersion": "7"},
}

CASES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "relay": {
        "default": {},
        "full": {
            **_FULL,
            "app": {
                **_APP,
                "email": {"smtpPort": 2465, "smtpAllowedRecipientDomains": "linuxfoundation.org"},
                "settings": {"SMTP_MAX_CONNECTIONS": 16, "SMTP_TLS": "required", "MAX_IN_FLIGHT": 1_000_000},
            },
            "autoscaling": {"enabled": True},
            "natsKVBuckets": {"replicas": 3, "buckets": {"email-recipients": {"maxBytes": 10_737_418_240}}},
        },
        "autoscaling": {"autoscaling": {"enabled": True}},
        "budget": _BUDGET,
        "credentials": _CREDENTIALS,
        "disabled": {"app": {"email": {"enabled": False}}},
        "eventing": _EVENTING,
        "files": {"app": {"email": {"smtpSecretAsFiles": True}}},
        "local": chart.read(chart.path("relay") / "values.local.example.yaml"),
        "metrics": _METRICS,
        "policy": _POLICY,
        "secrets": {**_SECRETS, **_EVENTING},
        "telemetry": _TELEMETRY,
        "without_buckets": {"natsKVBuckets": {"enabled": False}},
    },
    "tracker": {
        "default": {},
        "full": {
            **_FULL,
            "app": {**_APP, "settings": {"SQS_RECEIVERS": 4}},
            "keda": {"enabled": True, "identityOwner": "workload"},
            "retention": {**_RETENTION, "nats": _OF_RETENTION},
        },
        "budget": _BUDGET,
        "credentials": _CREDENTIALS,
        "eventing": {**_EVENTING, "serviceAccount": {"annotations": _ROLE}},
        "keda": {**_EVENTING, "keda": {"enabled": True}, "global": {"awsRegion": "us-west-2"}},
        "local": chart.read(chart.path("tracker") / "values.local.example.yaml"),
        "metrics": _METRICS,
        "policy": {**_POLICY, "app": {**_POLICY["app"], **_EVENTING["app"]}},
        "push_events": {
            "app": {**_EVENTING["app"], "pushEvents": {"durable": True}},
            "natsStream": {"enabled": True, "maxBytes": 10_737_418_240},
        },
        "retention": {"retention": {**_RETENTION, "nats": {"urlSecretName": "retention-url"}}},
        "secrets": {**_SECRETS, **_EVENTING},
        "telemetry": _TELEMETRY,
    },
}
ALL: Final = [(process, case) for process in chart.PROCESSES for case in CASES[process]]
