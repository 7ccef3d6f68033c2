{{- define "telecast.natsClusterName" -}}
{{ .Values.namePrefix }}telecast
{{- end }}

{{/* Whether servers of the chart know each other by a password. */}}
{{- define "telecast.natsRoutesPassword" -}}
{{- if and .Values.nats.auth.enabled (gt (int .Values.nats.replicas) 1) }}yes{{ end -}}
{{- end }}

{{- define "telecast.natsConf" -}}
{{- $nats := .Values.nats }}{{- $name := include "telecast.name" (list . "nats") -}}
# One of {{ $nats.replicas }} NATS servers; they differ by the name of their pod only.

server_name: $POD_NAME
port: 4222
http_port: 8222
# Nothing, without nats.tls.
include "client-tls.conf"

jetstream {
  store_dir: /data/jetstream
  # Below the volume: a full disk ends JetStream, a full store only drops what is oldest.
  max_file_store: {{ $nats.jetstream.maxFileStore }}
  max_memory_store: {{ $nats.jetstream.maxMemoryStore }}
  {{- with $nats.jetstream.syncInterval }}
  # `always` is for the power cut that hits all servers at once.
  sync_interval: {{ . }}
  {{- end }}
}
{{- if gt (int $nats.replicas) 1 }}

cluster {
  name: {{ include "telecast.natsClusterName" . }}
  port: 6222
  # Clients have the Service. Told the addresses of pods, they would connect to these, which no certificate names.
  no_advertise: true
  include "route-tls.conf"
  {{- if include "telecast.natsRoutesPassword" . }}
  # Servers know each other by a password of their own.
  authorization {
    user: routes
    password: $NATS_ROUTES_PASSWORD
    timeout: 5
  }
  # With it in them. A route to itself is recognised and dropped, so the list is the same everywhere.
  routes: [{{ range $number := until (int $nats.replicas) }}{{ if $number }}, {{ end }}$NATS_ROUTE_{{ $number }}{{ end }}]
  {{- else }}
  # A route to itself is recognised and dropped, so the list is the same everywhere.
  routes: [
    {{- range $number := until (int $nats.replicas) }}
    nats://{{ $name }}-{{ $number }}.{{ $name }}-headless:6222
    {{- end }}
  ]
  {{- end }}
  connect_retries: 120
}
{{- end }}

# On its way out a server hands its leaderships and clients to the others, over so long.
lame_duck_duration: 30s
lame_duck_grace_period: 5s
write_deadline: 10s
{{- if $nats.auth.enabled }}

# Who may connect.
authorization {
  user: {{ $nats.auth.user }}
  password: $NATS_PASSWORD
}
{{- end }}
{{ end }}

{{- define "telecast.natsConfigMapData" -}}
nats.conf: |
  {{- include "telecast.natsConf" . | nindent 2 }}
{{- $folder := ternary "files/nats/tls" "files/nats/plain" .Values.nats.tls.enabled }}
{{- range list "client-tls.conf" "route-tls.conf" }}
{{ . }}: |
  {{- $.Files.Get (printf "%s/%s" $folder .) | nindent 2 }}
{{- end }}
{{- end }}
