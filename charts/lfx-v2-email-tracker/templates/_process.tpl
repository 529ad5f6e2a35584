{{/*
Copyright The Linux Foundation and each contributor to LFX.
SPDX-License-Identifier: MIT

Templates of the tracker only.
*/}}

{{/* True if a scaler sets the number of pods. */}}
{{- define "lfx-v2-email-tracker.isScaled" -}}
{{- if .Values.keda.enabled }}true{{ end -}}
{{- end }}

{{/* The Secret with the queue's URL, created by the chart or outside; empty if no queue is read. */}}
{{- define "lfx-v2-email-tracker.engagementSecretName" -}}
{{- if and .Values.app.ses.eventingEnabled .Values.app.ses.engagementSecretName -}}
{{- ternary (include "lfx-v2-email-tracker.name" .) .Values.app.ses.engagementSecretName .Values.externalSecretsOperator.enabled -}}
{{- end -}}
{{- end }}

{{/* The required keys of the chart's own Secret. */}}
{{- define "lfx-v2-email-tracker.secretKeys" -}}
{{- if include "lfx-v2-email-tracker.engagementSecretName" . }}sqs_queue_url{{ end -}}
{{- end }}

{{/* The tracker mounts no Secret of its own. */}}
{{- define "lfx-v2-email-tracker.processSecretFiles" -}}
{{- end }}

{{- define "lfx-v2-email-tracker.env" -}}
{{ include "lfx-v2-email-tracker.commonEnv" . }}
- name: SES_EVENTING_ENABLED
  value: {{ .Values.app.ses.eventingEnabled | quote }}
- name: PUSH_EVENTS_DURABLE
  value: {{ .Values.app.pushEvents.durable | quote }}
{{- with include "lfx-v2-email-tracker.engagementSecretName" . }}
- name: SES_ENGAGEMENT_SQS_QUEUE_URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: sqs_queue_url
{{- end }}
{{- with .Values.global.awsRegion }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{ include "lfx-v2-email-tracker.furtherEnv" . | trim }}
{{- end }}

{{/* The ports for outgoing connections, besides those of NATS and DNS. */}}
{{- define "lfx-v2-email-tracker.egressPorts" -}}
{{- if .Values.app.ses.eventingEnabled }}["443"]{{ else }}[]{{ end -}}
{{- end }}

{{- define "lfx-v2-email-tracker.checkProcess" -}}
{{- if and .Values.app.ses.eventingEnabled (not .Values.app.ses.engagementSecretName) -}}
{{- fail "app.ses.engagementSecretName must be set, since app.ses.eventingEnabled is true" -}}
{{- end -}}
{{- end }}
