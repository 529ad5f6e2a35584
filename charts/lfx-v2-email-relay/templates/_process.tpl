{{/*
Copyright The Linux Foundation and each contributor to LFX.
SPDX-License-Identifier: MIT

Templates of the relay only.
*/}}

{{/* True if a scaler sets the number of pods. */}}
{{- define "lfx-v2-email-relay.isScaled" -}}
{{- if .Values.autoscaling.enabled }}true{{ end -}}
{{- end }}

{{/* The Secret with the login, created by the chart or outside; empty if no login is needed. */}}
{{- define "lfx-v2-email-relay.smtpSecretName" -}}
{{- if and .Values.app.email.enabled .Values.app.email.smtpSecretName -}}
{{- ternary (include "lfx-v2-email-relay.name" .) .Values.app.email.smtpSecretName .Values.externalSecretsOperator.enabled -}}
{{- end -}}
{{- end }}

{{/* The Secret with the name of the configuration set. */}}
{{- define "lfx-v2-email-relay.engagementSecretName" -}}
{{- if .Values.app.ses.engagementSecretName -}}
{{- ternary (include "lfx-v2-email-relay.name" .) .Values.app.ses.engagementSecretName .Values.externalSecretsOperator.enabled -}}
{{- end -}}
{{- end }}

{{/* The required keys of the chart's own Secret. */}}
{{- define "lfx-v2-email-relay.secretKeys" -}}
{{- if include "lfx-v2-email-relay.smtpSecretName" . }}smtp-username smtp-password{{ end -}}
{{- if and .Values.app.ses.eventingEnabled (include "lfx-v2-email-relay.engagementSecretName" .) }} ses_configuration_set_name{{ end -}}
{{- end }}

{{/* The Secret with the login, if it is mounted. */}}
{{- define "lfx-v2-email-relay.processSecretFiles" -}}
{{- if .Values.app.email.smtpSecretAsFiles -}}
{{- with include "lfx-v2-email-relay.smtpSecretName" . -}}
- name: smtp-login
  secret: {{ . }}
  path: /var/run/secrets/smtp
  keys: [smtp-username, smtp-password]
{{- end -}}
{{- end -}}
{{- end }}

{{- define "lfx-v2-email-relay.env" -}}
{{ include "lfx-v2-email-relay.commonEnv" . }}
- name: EMAIL_ENABLED
  value: {{ .Values.app.email.enabled | quote }}
- name: SMTP_HOST
  value: {{ .Values.app.email.smtpHost | quote }}
- name: SMTP_PORT
  value: {{ include "lfx-v2-email-relay.text" .Values.app.email.smtpPort | quote }}
- name: SMTP_FROM
  value: {{ .Values.app.email.smtpFrom | quote }}
- name: DEFAULT_SMTP_FROM_DISPLAY_NAME
  value: {{ .Values.app.email.smtpFromDisplayName | quote }}
- name: SMTP_ALLOWED_FROM_DOMAINS
  value: {{ .Values.app.email.smtpAllowedFromDomains | quote }}
- name: SMTP_ALLOWED_REPLY_TO_DOMAINS
  value: {{ .Values.app.email.smtpAllowedReplyToDomains | quote }}
- name: SMTP_ALLOWED_RECIPIENT_DOMAINS
  value: {{ .Values.app.email.smtpAllowedRecipientDomains | quote }}
{{- if include "lfx-v2-email-relay.processSecretFiles" . }}
- name: SMTP_USERNAME_FILE
  value: /var/run/secrets/smtp/smtp-username
- name: SMTP_PASSWORD_FILE
  value: /var/run/secrets/smtp/smtp-password
{{- else }}
{{- with include "lfx-v2-email-relay.smtpSecretName" . }}
- name: SMTP_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: smtp-username
- name: SMTP_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: smtp-password
{{- end }}
{{- end }}
{{- with include "lfx-v2-email-relay.engagementSecretName" . }}
- name: SES_CONFIGURATION_SET
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: ses_configuration_set_name
      {{- if not $.Values.app.ses.eventingEnabled }}
      optional: true
      {{- end }}
{{- end }}
{{ include "lfx-v2-email-relay.furtherEnv" . | trim }}
{{- end }}

{{/* The ports for outgoing connections, besides those of NATS and DNS. */}}
{{- define "lfx-v2-email-relay.egressPorts" -}}
{{- list (include "lfx-v2-email-relay.text" .Values.app.email.smtpPort) | toJson -}}
{{- end }}

{{- define "lfx-v2-email-relay.checkProcess" -}}
{{- with .Values.app -}}
{{- if and .email.enabled (not .email.smtpSecretName) (hasSuffix ".amazonaws.com" .email.smtpHost) -}}
{{- fail (printf "app.email.smtpSecretName must be set: %s takes no email without a login" .email.smtpHost) -}}
{{- end -}}
{{- if and .ses.eventingEnabled (not .ses.engagementSecretName) -}}
{{- fail "app.ses.engagementSecretName must be set, since app.ses.eventingEnabled is true" -}}
{{- end -}}
{{- end -}}
{{- end }}
