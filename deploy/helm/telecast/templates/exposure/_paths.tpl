{{/* What goes to ingest, and what to edges; what is for operators alone is not routed. */}}
{{- define "telecast.collectorPaths" -}}
- /ws/collector
- /api/v1/write
- /api/v2/write
- /write
- /ping
{{- end }}

{{- define "telecast.clientPaths" -}}
- /ws
- /ws/clients
- /sse
- /api/metrics/poll
- /api/metrics/latest
- /telecast.js
- /
- /health
- /api/health
- /livez
- /readyz
- /version
{{- end }}

{{- define "telecast.nginxAnnotations" -}}
# An hour without a byte; the default of 60 s is close to the 15 s at which edges speak (edge.heartbeat_ms).
nginx.ingress.kubernetes.io/proxy-read-timeout: "3600"
nginx.ingress.kubernetes.io/proxy-send-timeout: "3600"
nginx.ingress.kubernetes.io/proxy-connect-timeout: "2"
nginx.ingress.kubernetes.io/proxy-http-version: "1.1"
# Events and frames go out when they come.
nginx.ingress.kubernetes.io/proxy-buffering: "off"
# collector.message_bytes_max.
nginx.ingress.kubernetes.io/proxy-body-size: 4m
# An edge that is full or draining answers 503 before anything has begun.
nginx.ingress.kubernetes.io/proxy-next-upstream: error timeout http_503
nginx.ingress.kubernetes.io/proxy-next-upstream-tries: "3"
# It has no least connections: ewma chooses the quicker of two, round_robin would fill up whoever is new last.
nginx.ingress.kubernetes.io/load-balance: ewma
# 2,500 connections and 2,000 requests a second of one address, as the controller sees it: behind a load balancer that hides the client's
# address (externalTrafficPolicy: Cluster, no PROXY protocol) everybody is one address.
nginx.ingress.kubernetes.io/limit-connections: "2500"
nginx.ingress.kubernetes.io/limit-rps: "2000"
nginx.ingress.kubernetes.io/limit-burst-multiplier: "5"
{{- end }}
