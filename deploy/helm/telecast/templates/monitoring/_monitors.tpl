{{/* Monitors, and the kinds of pods that each is for. */}}
{{- define "telecast.monitored" -}}
telecast: [edge, ingest]
{{- if and .Values.nats.enabled .Values.nats.exporter.enabled }}
nats: [nats]
{{- end }}
{{- end }}

{{- define "telecast.monitorSelector" -}}
matchLabels:
  app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
  {{- if eq (len (index . 1)) 1 }}
  app.kubernetes.io/name: {{ first (index . 1) }}
  {{- else }}
matchExpressions:
  - {key: app.kubernetes.io/name, operator: In, values: [{{ join ", " (index . 1) }}]}
  {{- end }}
{{- end }}

{{- define "telecast.endpoint" -}}
port: metrics
path: /metrics
interval: {{ .interval }}
relabelings:
  - sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_name]
    targetLabel: job
  # Alerts and boards name a node by `instance`: a pod's name says more than its address.
  - sourceLabels: [__meta_kubernetes_pod_name]
    targetLabel: instance
{{- end }}
