{{/*
Copyright The Linux Foundation and each contributor to LFX.
SPDX-License-Identifier: MIT

Templates of both charts. Every name begins with the chart's, since an umbrella chart has one name space for all.
*/}}

{{- define "lfx-v2-email-tracker.name" -}}
{{- .Values.fullnameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "lfx-v2-email-tracker.selector" -}}
app.kubernetes.io/name: {{ include "lfx-v2-email-tracker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lfx-v2-email-tracker.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "lfx-v2-email-tracker.selector" . }}
app.kubernetes.io/part-of: lfx-v2-email-service
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "lfx-v2-email-tracker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "lfx-v2-email-tracker.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "lfx-v2-email-tracker.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end }}

{{/* The text of a variable. Whole numbers come as floats, which from a million on would be written 1e+06. */}}
{{- define "lfx-v2-email-tracker.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end }}

{{/* The ports of one or more URLs, separated by commas, as a list; takes (urls, port of a URL without one). */}}
{{- define "lfx-v2-email-tracker.ports" -}}
{{- $ports := list -}}
{{- range splitList "," (index . 0) -}}
{{- $ports = append $ports (regexFind ":[0-9]+(/.*)?$" (trim .) | regexFind "[0-9]+" | default (last $ | toString)) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}

{{/* The URL of the collector. Without a scheme the process could not distinguish TLS from plain text. */}}
{{- define "lfx-v2-email-tracker.otlpEndpoint" -}}
{{- $endpoint := .Values.app.otel.endpoint | trim -}}
{{- if or (not $endpoint) (contains "://" $endpoint) -}}
{{- $endpoint -}}
{{- else -}}
{{- printf "%s://%s" (ternary "http" "https" (eq (toString .Values.app.otel.insecure) "true")) $endpoint -}}
{{- end -}}
{{- end }}

{{/* Secrets that are mounted as files: a list of name, secret, path and keys. */}}
{{- define "lfx-v2-email-tracker.secretFiles" -}}
{{- with .Values.nats.credsSecretName }}
- name: nats-creds
  secret: {{ . }}
  path: /var/run/secrets/nats
  keys: [{{ $.Values.nats.credsSecretKey }}]
{{- end }}
{{ include "lfx-v2-email-tracker.processSecretFiles" . }}
{{- end }}

{{/* The variable NATS_URL, from a Secret or from the values. */}}
{{- define "lfx-v2-email-tracker.natsUrl" -}}
- name: NATS_URL
{{- if .Values.nats.urlSecretName }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.nats.urlSecretName }}
      key: {{ .Values.nats.urlSecretKey }}
{{- else }}
  value: {{ .Values.nats.url | quote }}
{{- end }}
{{- end }}

{{/* The variables of both processes. */}}
{{- define "lfx-v2-email-tracker.commonEnv" -}}
{{ include "lfx-v2-email-tracker.natsUrl" . }}
{{- if .Values.nats.credsSecretName }}
- name: NATS_CREDS
  value: /var/run/secrets/nats/{{ .Values.nats.credsSecretKey }}
{{- end }}
- name: PORT
  value: {{ include "lfx-v2-email-tracker.text" .Values.service.port | quote }}
- name: LOG_LEVEL
  value: {{ .Values.app.logLevel | quote }}
- name: LOG_ADD_SOURCE
  value: {{ .Values.app.logAddSource | quote }}
- name: SHUTDOWN_TIMEOUT_SECONDS
  value: {{ include "lfx-v2-email-tracker.text" .Values.app.shutdownTimeoutSeconds | quote }}
- name: SUPPRESSION_ENABLED
  value: {{ .Values.app.suppression.enabled | quote }}
{{- end }}

{{/* The variables of app.settings, app.extraEnv and OpenTelemetry. The last may refer to the others. */}}
{{- define "lfx-v2-email-tracker.furtherEnv" -}}
{{- range $name, $value := .Values.app.settings }}
- name: {{ $name }}
  value: {{ include "lfx-v2-email-tracker.text" $value | quote }}
{{- end }}
{{- with .Values.app.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- with .Values.app.otel }}
- name: OTEL_SERVICE_NAME
  value: {{ .serviceName | default $.Chart.Name | quote }}
{{- with .serviceVersion | default $.Chart.AppVersion }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ printf "service.version=%s" . | quote }}
{{- end }}
- name: OTEL_TRACES_EXPORTER
  value: {{ .tracesExporter | default "none" | quote }}
- name: OTEL_METRICS_EXPORTER
  value: {{ .metricsExporter | default "none" | quote }}
- name: OTEL_LOGS_EXPORTER
  value: {{ .logsExporter | default "none" | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ eq .protocol "http" | ternary "http/protobuf" .protocol | quote }}
{{- with include "lfx-v2-email-tracker.otlpEndpoint" $ }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
- name: OTEL_EXPORTER_OTLP_INSECURE
  value: {{ .insecure | quote }}
{{- with .tracesSampler }}
- name: OTEL_TRACES_SAMPLER
  value: {{ . | quote }}
{{- end }}
{{- with include "lfx-v2-email-tracker.text" .tracesSamplerArg }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ . | quote }}
{{- end }}
{{- with .propagators }}
- name: OTEL_PROPAGATORS
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuse values that Kubernetes would accept, but that cannot work. */}}
{{- define "lfx-v2-email-tracker.check" -}}
{{- $grace := float64 .Values.terminationGracePeriodSeconds -}}
{{- if le $grace (float64 .Values.app.shutdownTimeoutSeconds) -}}
{{- fail (printf "terminationGracePeriodSeconds (%v) must be longer than app.shutdownTimeoutSeconds (%v): the pod would be killed while it stops" .Values.terminationGracePeriodSeconds .Values.app.shutdownTimeoutSeconds) -}}
{{- end -}}
{{- if and .Values.externalSecretsOperator.enabled (not .Values.global.awsRegion) -}}
{{- fail "global.awsRegion must be set, since externalSecretsOperator.enabled is true" -}}
{{- end -}}
{{- range $name := list "configurationSetName" "engagementQueueURL" -}}
{{- if get $.Values.app.ses $name -}}
{{- fail (printf "app.ses.%s has no effect: the value is read from the Secret app.ses.engagementSecretName" $name) -}}
{{- end -}}
{{- end -}}
{{- $names := dict -}}
{{- range include "lfx-v2-email-tracker.env" . | fromYamlArray -}}
{{- $variable := trimSuffix "_FILE" .name -}}
{{- if hasKey $names $variable -}}
{{- fail (printf "%s is set twice: the chart has a value for it, or app.settings and app.extraEnv both name it" $variable) -}}
{{- end -}}
{{- $_ := set $names $variable true -}}
{{- end -}}
{{- end }}
