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
{{- $root := index . 0 }}{{ $values := index . 1 -}}
port: metrics
path: /metrics
interval: {{ $values.interval }}
relabelings:
  - sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_name]
    targetLabel: job
    replacement: telecast/$1
  # Alerts and boards name a node by `instance`: a pod's name says more than its address.
  - sourceLabels: [__meta_kubernetes_pod_name]
    targetLabel: instance
{{- if has "nats" (index . 2) }}
metricRelabelings:
  # The exporter calls NATS' own cluster `cluster`, by the name in nats.conf. Where the target has a label `cluster`, Prometheus has
  # moved the exporter's out of its way, to `exported_cluster`.
  - sourceLabels: [exported_cluster, cluster]
    regex: ;({{ $root.Values.namePrefix }}telecast)
    targetLabel: nats_cluster
  - sourceLabels: [exported_cluster, cluster]
    regex: ;{{ $root.Values.namePrefix }}telecast
    targetLabel: cluster
    replacement: ""
  - sourceLabels: [exported_cluster]
    regex: (.+)
    targetLabel: nats_cluster
  - action: labeldrop
    regex: exported_cluster
{{- end }}
{{- end }}
