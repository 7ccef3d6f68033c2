{{/* Puts the values of `from` into the table `into`: tables are merged. Helm's own merge leaves out false and 0, and drops most nulls. */}}
{{- define "telecast.overlay" -}}
{{- $into := .into }}
{{- range $key, $value := .from }}
{{- if kindIs "invalid" $value }}
{{- $_ := unset $into $key }}
{{- else if kindIs "map" $value }}
{{- if not (kindIs "map" (get $into $key)) }}{{ $_ := set $into $key dict }}{{ end }}
{{- include "telecast.overlay" (dict "into" (get $into $key) "from" $value) }}
{{- else if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{- /* Numbers of values are floats, and TOML has integers. */}}
{{- $_ := set $into $key (int64 $value) }}
{{- else }}
{{- $_ := set $into $key $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* One file of configuration: as it is in files/config, or with the values above it. */}}
{{- define "telecast.configFile" -}}
{{- $root := index . 0 }}{{- $name := index . 1 }}
{{- $text := $root.Files.Get (printf "files/config/%s.toml" $name) }}
{{- $above := dict }}
{{- if eq $name "default" }}{{ $above = include "telecast.natsConfig" $root | fromYaml }}{{ end }}
{{- include "telecast.overlay" (dict "into" $above "from" (index $root.Values.config $name)) }}
{{- if $above }}
{{- $merged := $text | fromToml }}
{{- include "telecast.overlay" (dict "into" $merged "from" $above) -}}
# files/config/{{ $name }}.toml of the chart, with its values.
{{ $merged | toToml }}
{{- else -}}
{{ $text }}
{{- end }}
{{- end }}

{{/* What follows for nodes from where NATS is. */}}
{{- define "telecast.natsConfig" -}}
{{- $nats := .Values.nats }}
{{- if $nats.enabled }}
{{- if .Values.namePrefix }}
nats:
  url: nats://{{ include "telecast.name" (list . "nats") }}:4222
{{- end }}
{{- $copies := (.Files.Get "files/config/default.toml" | fromToml).log.replicas | int }}
{{- if gt $copies (int $nats.replicas) }}
log:
  replicas: {{ $nats.replicas }}
{{- end }}
{{- else }}
nats:
  url: {{ $nats.url | quote }}
{{- end }}
{{- end }}

{{- define "telecast.configMapData" -}}
default.toml: |
  {{- include "telecast.configFile" (list . "default") | nindent 2 }}
ingest.toml: |
  {{- include "telecast.configFile" (list . "ingest") | nindent 2 }}
edge.toml: |
  {{- include "telecast.configFile" (list . "edge") | nindent 2 }}
{{- end }}
