{{- define "telecast.kedaQuery" -}}
{{- $labels := printf `{job="telecast/edge",namespace="%s"}` .Release.Namespace -}}
{{- default (printf "100 * sum(ws_connections_active%s) / avg(ws_connections_max%s)" $labels $labels) .Values.edge.keda.query -}}
{{- end }}
