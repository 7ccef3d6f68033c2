{{/* Values that contradict each other, which a schema cannot say. Each message says what to set. */}}
{{- define "telecast.checks" -}}
{{- $nats := .Values.nats }}
{{- if and .Values.edge.hpa.enabled .Values.edge.keda.enabled }}
{{- fail "edge.hpa and edge.keda would both set the number of edges: set edge.hpa.enabled=false for KEDA, or edge.keda.enabled=false for the HPA" }}
{{- end }}
{{- if and .Values.edge.prometheusAdapter.enabled (not .Values.edge.hpa.enabled) }}
{{- fail "edge.prometheusAdapter adds a metric to edge.hpa, which is off: set edge.hpa.enabled=true, or edge.prometheusAdapter.enabled=false" }}
{{- end }}
{{- range $role := list "edge" "ingest" }}
{{- $values := index $.Values $role }}
{{- if and $values.hpa.enabled (not (kindIs "invalid" $values.replicas)) }}
{{- fail (printf "%s.replicas would undo what the autoscaler does at each upgrade: set %s.hpa.minReplicas and maxReplicas, or %s.hpa.enabled=false" $role $role $role) }}
{{- end }}
{{- if and $values.hpa.enabled (gt (int $values.hpa.minReplicas) (int $values.hpa.maxReplicas)) }}
{{- fail (printf "%s.hpa.minReplicas is greater than %s.hpa.maxReplicas: raise the second" $role $role) }}
{{- end }}
{{- end }}
{{- with .Values.edge.keda }}
{{- if and .enabled (not (kindIs "invalid" $.Values.edge.replicas)) }}
{{- fail "edge.replicas would undo what KEDA does at each upgrade: set edge.keda.minReplicas and maxReplicas, or edge.keda.enabled=false" }}
{{- end }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail "edge.keda.minReplicas is greater than edge.keda.maxReplicas: raise the second" }}
{{- end }}
{{- end }}
{{- if and $nats.enabled $nats.url }}
{{- fail "nats.url names servers that are there already, and nats.enabled makes some: set nats.enabled=false, or leave nats.url empty" }}
{{- end }}
{{- if not (or $nats.enabled $nats.url) }}
{{- fail "nats.enabled=false needs nats.url: where your NATS servers are, as nats://HOST:4222, several separated by commas" }}
{{- end }}
{{- if and $nats.enabled (or $nats.credentials.existingSecret $nats.token.existingSecret) }}
{{- fail "nats.credentials and nats.token are for servers that are there already (nats.enabled=false): the chart's own know a password, nats.auth.enabled=true" }}
{{- end }}
{{- $logins := compact (list (ternary "auth" "" $nats.auth.enabled) (ternary "credentials" "" (ne $nats.credentials.existingSecret "")) (ternary "token" "" (ne $nats.token.existingSecret ""))) }}
{{- if gt (len $logins) 1 }}
{{- fail (printf "nodes log in to NATS in one way, and these are set: nats.%s: leave one" (join ", nats." $logins)) }}
{{- end }}
{{- if and $nats.tls.certManager (not (and $nats.enabled $nats.tls.enabled)) }}
{{- fail "nats.tls.certManager makes certificates for the chart's own servers: set nats.tls.enabled=true and nats.enabled=true, or nats.tls.certManager=false" }}
{{- end }}
{{- if $nats.enabled }}
{{- $copies := dig "log" "replicas" nil .Values.config.default }}
{{- if and $copies (gt (int $copies) (int $nats.replicas)) }}
{{- fail (printf "config.default.log.replicas (%d) is more than there are NATS servers, nats.replicas (%d)" (int $copies) (int $nats.replicas)) }}
{{- end }}
{{- end }}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- fail "podMonitor and serviceMonitor would count everything twice: set one of them only" }}
{{- end }}
{{- if and .Values.gateway.enabled (not (or .Values.gateway.create .Values.gateway.parentRefs)) }}
{{- fail "gateway.create=false needs gateway.parentRefs: the Gateways that lead here, as [{name: …, namespace: …}]" }}
{{- end }}
{{- end }}
