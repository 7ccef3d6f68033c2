{{/* The head of a network policy: a list of the root, its name, and the kind of pods it is for, or "" for all of the release. */}}
{{- define "telecast.policy" }}
{{- $root := index . 0 }}{{- $kind := index . 2 }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "telecast.name" . }}
  labels:
    {{- include "telecast.labels" $root | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- if $kind }}
      {{- include "telecast.selector" (list $root $kind) | nindent 6 }}
      {{- else }}
      app.kubernetes.io/instance: {{ $root.Release.Name }}
      {{- end }}
{{- end }}

{{/* The way of nodes and operators to NATS servers: those of the release, or those that are there already. */}}
{{- define "telecast.egressToNats" -}}
{{- $external := .Values.networkPolicy.externalNats }}
{{- if .Values.nats.enabled -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "telecast.selector" (list . "nats") | nindent 10 }}
  ports:
    - {protocol: TCP, port: 4222}
{{- else -}}
- ports:
    {{- range $external.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with $external.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
