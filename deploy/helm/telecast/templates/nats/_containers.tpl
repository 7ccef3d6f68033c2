{{- define "telecast.natsAffinity" -}}
{{- $nats := .Values.nats }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "telecast.selector" (list . "nats") | fromYaml)) }}
{{- if $nats.affinity }}
affinity:
  {{- toYaml $nats.affinity | nindent 2 }}
{{- else if eq $nats.antiAffinity "required" }}
affinity:
  podAntiAffinity:
    # Two servers on one machine would go together, and the quorum with them.
    requiredDuringSchedulingIgnoredDuringExecution:
      - {{- toYaml $term | nindent 8 }}
{{- else if eq $nats.antiAffinity "preferred" }}
affinity:
  podAntiAffinity:
    # So that a cluster of one machine works.
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          {{- toYaml $term | nindent 10 }}
{{- end }}
{{- end }}

{{- define "telecast.natsContainer" -}}
{{- $nats := .Values.nats -}}
name: nats
image: {{ include "telecast.image" (list . $nats.image) }}
{{- with $nats.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
command: [nats-server, --config, /etc/nats/nats.conf]
env:
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: GOMEMLIMIT
    value: {{ $nats.goMemLimit }}
  {{- if $nats.auth.enabled }}
  - name: NATS_PASSWORD
    valueFrom:
      secretKeyRef:
        name: {{ $nats.auth.existingSecret }}
        key: {{ $nats.auth.passwordKey }}
  {{- end }}
  {{- if include "telecast.natsRoutesPassword" . }}
  - name: NATS_ROUTES_PASSWORD
    valueFrom:
      secretKeyRef:
        name: {{ $nats.auth.existingSecret }}
        key: {{ $nats.auth.routesPasswordKey }}
  {{- $name := include "telecast.name" (list . "nats") }}
  # Variables of nats.conf are whole values, never parts. The quotes are for its reader.
  {{- range $number := until (int $nats.replicas) }}
  - name: NATS_ROUTE_{{ $number }}
    value: '"nats://routes:$(NATS_ROUTES_PASSWORD)@{{ $name }}-{{ $number }}.{{ $name }}-headless:6222"'
  {{- end }}
  {{- end }}
  {{- with $nats.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: client, containerPort: 4222}
  - {name: cluster, containerPort: 6222}
  - {name: monitor, containerPort: 8222}
startupProbe:
  # Reading a large store takes its time.
  httpGet: {path: /healthz, port: monitor}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  httpGet: {path: "/healthz?js-server-only=true", port: monitor}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  # Only whether it runs: restarting a server that has lost its quorum would make it worse.
  httpGet: {path: "/healthz?js-enabled-only=true", port: monitor}
  periodSeconds: 30
  timeoutSeconds: 5
  failureThreshold: 3
lifecycle:
  preStop:
    exec:
      # The server ends itself when its clients have gone to the others. It is the first process, unless processes are shared.
      command: [nats-server, "--signal=ldm={{ ternary "/data/nats.pid" "1" $nats.tls.enabled }}"]
resources:
  {{- toYaml $nats.resources | nindent 2 }}
securityContext:
  {{- include "telecast.restricted" . | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/nats, readOnly: true}
  - {name: data, mountPath: /data}
  {{- if $nats.tls.enabled }}
  - {name: tls, mountPath: /etc/nats-tls, readOnly: true}
  {{- end }}
{{- end }}

{{/* A renewed certificate changes no ConfigMap, so nothing rolls the servers: they read it anew, and keep their connections. */}}
{{- define "telecast.natsReload" -}}
name: reload
image: {{ include "telecast.image" (list . .Values.nats.image) }}
{{- with .Values.nats.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
command: [sh, -c]
args:
  - |
    # Kubernetes points this link elsewhere when the secret has changed.
    seen=$(readlink /etc/nats-tls/..data)
    while sleep 10; do
      now=$(readlink /etc/nats-tls/..data)
      [ "$now" = "$seen" ] || { nats-server --signal=reload=/data/nats.pid && seen=$now; }
    done
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 32Mi}
securityContext:
  {{- include "telecast.restricted" . | nindent 2 }}
volumeMounts:
  - {name: tls, mountPath: /etc/nats-tls, readOnly: true}
  - {name: data, mountPath: /data, readOnly: true}
{{- end }}

{{- define "telecast.natsExporter" -}}
{{- $exporter := index . 1 -}}
name: exporter
image: {{ include "telecast.image" (list (index . 0) $exporter.image) }}
{{- with $exporter.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
args: [-varz, -connz, -healthz, "-jsz=all", -port=7777, "http://localhost:8222"]
ports:
  - {name: metrics, containerPort: 7777}
resources:
  {{- toYaml $exporter.resources | nindent 2 }}
securityContext:
  {{- include "telecast.restricted" . | nindent 2 }}
{{- end }}
