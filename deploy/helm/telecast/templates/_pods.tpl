{{/* What pods of all kinds have: a list of the root and the kind. */}}
{{- define "telecast.podCommon" -}}
{{- $root := index . 0 }}{{- $values := index $root.Values (index . 1) }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
serviceAccountName: {{ include "telecast.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
{{- $selector := dict "matchLabels" (include "telecast.selector" $ | fromYaml) }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml (merge (dict) . (dict "labelSelector" $selector)) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Of every container: nothing that the namespace's restricted policy would refuse. */}}
{{- define "telecast.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "telecast.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* How nodes connect to NATS and log in. */}}
{{- define "telecast.natsLogin" -}}
{{- with .Values.nats.auth }}
{{- if .enabled }}
- name: TELECAST__NATS__USER
  value: {{ .user | quote }}
- name: TELECAST__NATS__PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .passwordKey }}
{{- end }}
{{- end }}
{{- with .Values.nats.tls }}
{{- if .enabled }}
{{- if $.Values.nats.enabled }}
- name: TELECAST__NATS__URL
  value: tls://{{ include "telecast.name" (list $ "nats") }}:4222
{{- end }}
# Whose certificates count, as OpenSSL and most other libraries read it.
- name: SSL_CERT_FILE
  value: /etc/nats-tls/ca.crt
{{- end }}
{{- end }}
{{- with .Values.nats.token }}
{{- if .existingSecret }}
- name: TELECAST__NATS__TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with .Values.nats.credentials }}
{{- if .existingSecret }}
- name: TELECAST__NATS__CREDENTIALS_FILE
  value: /etc/telecast-nats/{{ .key }}
{{- end }}
{{- end }}
{{- end }}

{{/* On different machines, and as well in different zones. Wishes, never conditions: a machine without room, or one that is drained, must
not hold back pods that others have room for. */}}
{{- define "telecast.affinity" -}}
{{- $values := index (index . 0).Values (index . 1) }}
{{- if $values.affinity }}
affinity:
  {{- toYaml $values.affinity | nindent 2 }}
{{- else if eq $values.antiAffinity "preferred" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      {{- range $key, $weight := dict "kubernetes.io/hostname" 100 "topology.kubernetes.io/zone" 50 }}
      - weight: {{ $weight }}
        podAffinityTerm:
          topologyKey: {{ $key }}
          # The old pods of a roll-out do not count.
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels:
              {{- include "telecast.selector" $ | nindent 14 }}
      {{- end }}
{{- end }}
{{- end }}

{{/* The Deployment of ingest or edge: a list of the root and the role. */}}
{{- define "telecast.deployment" -}}
{{- $root := index . 0 }}{{- $role := index . 1 }}{{- $values := index $root.Values $role }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "telecast.name" . }}
  labels:
    {{- include "telecast.kindLabels" . | nindent 4 }}
spec:
  {{- /* With an autoscaler, a number here would be put back with every upgrade. */}}
  {{- if not (kindIs "invalid" $values.replicas) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  # A new pod must hold for so long before the next old one goes.
  minReadySeconds: 10
  strategy:
    # First a new one, then an old one less: never fewer than there should be.
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "telecast.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "telecast.podLabels" . | nindent 8 }}
      annotations:
        # A change of the configuration rolls the pods.
        checksum/config: {{ include "telecast.configMapData" $root | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "telecast.podCommon" . | nindent 6 }}
      securityContext:
        {{- include "telecast.podSecurity" . | nindent 8 }}
      {{- include "telecast.affinity" . | nindent 6 }}
      containers:
        - {{- include "telecast.container" . | nindent 10 }}
      volumes:
        - name: config
          configMap:
            name: {{ include "telecast.name" (list $root "telecast-config") }}
        {{- with $root.Values.nats.credentials.existingSecret }}
        - name: nats-credentials
          secret:
            secretName: {{ . }}
        {{- end }}
        {{- if $root.Values.nats.tls.enabled }}
        {{- include "telecast.natsAuthorityVolume" $root | nindent 8 }}
        {{- end }}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{- define "telecast.natsAuthorityVolume" -}}
- name: nats-tls
  secret:
    secretName: {{ .Values.nats.tls.existingSecret }}
    # Not the servers' key.
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}

{{- define "telecast.container" -}}
{{- $root := index . 0 }}{{- $role := index . 1 }}{{- $values := index $root.Values $role }}
name: {{ $role }}
image: {{ include "telecast.image" (list $root $root.Values.image) }}
{{- with $root.Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
args:
  - {{ $role }}
  {{- with $values.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  - name: TELECAST_CONFIG_DIR
    value: /etc/telecast
  - name: TELECAST__NODE__ID
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  # Without the secret, routes that change something are closed.
  - name: TELECAST__ADMIN__TOKEN
    valueFrom:
      secretKeyRef:
        name: {{ $root.Values.admin.existingSecret }}
        key: {{ $root.Values.admin.key }}
        optional: {{ $root.Values.admin.optional }}
  {{- include "telecast.natsLogin" $root | nindent 2 }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: http, containerPort: {{ ternary 3002 9090 (eq $role "edge") }}}
  - {name: metrics, containerPort: 9100}
startupProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 1
  failureThreshold: 30
readinessProbe:
  # Through the listener that peers use.
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  # Through the other one: a rush of peers must not look like a dead process.
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  {{- include "telecast.restricted" . | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/telecast, readOnly: true}
  {{- if $root.Values.nats.credentials.existingSecret }}
  - {name: nats-credentials, mountPath: /etc/telecast-nats, readOnly: true}
  {{- end }}
  {{- if $root.Values.nats.tls.enabled }}
  - {name: nats-tls, mountPath: /etc/nats-tls, readOnly: true}
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
