{{/* Names and labels. Each takes a list: the root, and what it is about. */}}

{{- define "telecast.name" -}}
{{- printf "%s%s" (index . 0).Values.namePrefix (index . 1) | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* Of every object. */}}
{{- define "telecast.labels" -}}
app.kubernetes.io/part-of: telecast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What tells the pods of one kind from all others, also from those of another release in the namespace. It can never change. */}}
{{- define "telecast.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- define "telecast.component" -}}
{{- get (dict "nats" "log" "nats-box" "tools") . | default . -}}
{{- end }}

{{/* Of the objects of one kind of pod. */}}
{{- define "telecast.kindLabels" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/component: {{ include "telecast.component" (index . 1) }}
{{ include "telecast.labels" (index . 0) }}
{{- end }}

{{/* Of the pods: without versions, so that another chart with the same pods rolls nothing. */}}
{{- define "telecast.podLabels" -}}
{{ include "telecast.selector" . }}
app.kubernetes.io/component: {{ include "telecast.component" (index . 1) }}
app.kubernetes.io/part-of: telecast
{{- with merge (dict) (index (index . 0).Values (index . 1)).podLabels (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "telecast.serviceAccountName" -}}
{{- default (include "telecast.name" .) (index (index . 0).Values (index . 1)).serviceAccount.name -}}
{{- end }}

{{/* repository:tag, or with the digest behind it. */}}
{{- define "telecast.image" -}}
{{- $image := index . 1 -}}
{{- printf "%s:%s" $image.repository (default (index . 0).Chart.AppVersion $image.tag) -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}
