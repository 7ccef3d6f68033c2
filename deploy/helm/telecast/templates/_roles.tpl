{{/* What ingest and edge have beside their Deployment, and what all kinds of pods have: a list of the root and the kind. */}}

{{- define "telecast.service" -}}
{{- $root := index . 0 }}{{- $service := (index $root.Values (index . 1)).service }}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "telecast.name" . }}
  labels:
    {{- include "telecast.kindLabels" . | nindent 4 }}
  {{- with $service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if ne $service.type "ClusterIP" }}
  type: {{ $service.type }}
  {{- with $service.externalTrafficPolicy }}
  externalTrafficPolicy: {{ . }}
  {{- end }}
  {{- end }}
  {{- if eq $service.type "LoadBalancer" }}
  {{- with $service.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
  {{- with $service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  selector:
    {{- include "telecast.selector" . | nindent 4 }}
  ports:
    - {name: http, port: {{ $service.port }}, targetPort: http, appProtocol: http}
{{- end }}

{{- define "telecast.hpa" -}}
{{- $root := index . 0 }}{{- $role := index . 1 }}{{- $hpa := (index $root.Values $role).hpa }}
{{- if $hpa.enabled }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "telecast.name" . }}
  labels:
    {{- include "telecast.kindLabels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "telecast.name" . }}
  minReplicas: {{ $hpa.minReplicas }}
  maxReplicas: {{ $hpa.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $hpa.cpuUtilization }}
    {{- if and (eq $role "edge") $root.Values.edge.prometheusAdapter.enabled }}
    - type: Pods
      pods:
        metric:
          name: ws_connections_utilization_percent
        target:
          type: AverageValue
          averageValue: {{ $root.Values.edge.prometheusAdapter.threshold | quote }}
    {{- end }}
    {{- with $hpa.extraMetrics }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  behavior:
    {{- toYaml $hpa.behavior | nindent 4 }}
{{- end }}
{{- end }}

{{- define "telecast.pdb" -}}
{{- $root := index . 0 }}{{- $kind := index . 1 }}{{- $pdb := (index $root.Values $kind).pdb }}
{{- if $pdb.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "telecast.name" . }}
  labels:
    {{- include "telecast.kindLabels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $pdb.maxUnavailable }}
  # A pod that does not run anyway must not hold up a drain of its machine; a NATS server may still hold the only copy.
  unhealthyPodEvictionPolicy: {{ ternary "IfHealthyBudget" "AlwaysAllow" (eq $kind "nats") }}
  selector:
    matchLabels:
      {{- include "telecast.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "telecast.serviceAccount" -}}
{{- $root := index . 0 }}{{- $account := (index $root.Values (index . 1)).serviceAccount }}
{{- if $account.create }}
---
# A name of its own without a token: nothing in here talks to Kubernetes.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "telecast.serviceAccountName" . }}
  labels:
    {{- include "telecast.kindLabels" . | nindent 4 }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}
