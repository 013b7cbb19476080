{{- define "substrate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Of all pods that run ate: restricted, as Pod Security Standards call it. */ -}}
{{- define "substrate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "substrate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Where pods of a component may run: its values. */ -}}
{{- define "substrate.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 0 }}
{{- end }}
{{- with .affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "substrate.scraped" -}}
{{- if .Values.metrics.annotations }}
annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8081", prometheus.io/path: /metrics}
{{- end }}
{{- end }}

{{- define "substrate.spread" -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {app: {{ . }}}
  # Else a rollout counts those that are about to go, and may put all on one node.
  matchLabelKeys: [pod-template-hash]
{{- end }}

{{- define "substrate.tlsArgs" -}}
- --tls-ca=/etc/ate/tls/ca.crt
- --tls-cert=/etc/ate/tls/tls.crt
- --tls-key=/etc/ate/tls/tls.key
{{- end }}

{{- define "substrate.engineArgs" -}}
{{- with .Values.snapshots.location | default (ternary "s3://snapshots" "" .Values.objects.bundled.enabled) }}
- --snapshots={{ . }}
{{- end }}
{{- if .Values.store.bundled.enabled }}
- --store-mutual-tls
{{- else if .Values.store.cluster }}
- --store-cluster
{{- end }}
{{- with .Values.leases.operation }}
- --operation-lease={{ int64 . }}
{{- end }}
{{- end }}

{{- define "substrate.objectsSecret" -}}
{{ .Values.objects.secret | default "ate-objects" }}
{{- end }}

{{- /* Takes TLS off connections to a server that listens on the pod's loopback: root, port, clients. */ -}}
{{- define "substrate.front" -}}
- name: tls
  image: {{ include "substrate.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
  - tls
  - --listen=0.0.0.0:8443
  - --listen-probes=0.0.0.0:8081
  - --to=127.0.0.1:{{ .port }}
  {{- range .clients }}
  - --for={{ . }}
  {{- end }}
  {{- include "substrate.tlsArgs" .root | nindent 2 }}
  ports:
  - {name: tls, containerPort: 8443}
  - {name: probes, containerPort: 8081}
  {{- include "substrate.probes" "port: probes" | nindent 2 }}
  resources:
    requests: {cpu: 50m, memory: 16Mi}
    limits: {memory: 256Mi}
  securityContext: {{ include "substrate.containerSecurity" .root | nindent 4 }}
  volumeMounts:
  - {name: tls, mountPath: /etc/ate/tls, readOnly: true}
{{- end }}

{{- /* Its volumes, and an emptyDir where nothing is kept: name, persistence. */ -}}
{{- define "substrate.frontVolumes" -}}
- name: tls
  secret: {secretName: {{ .name }}-tls}
{{- if not .persistence.enabled }}
- name: data
  emptyDir: {}
{{- end }}
{{- end }}

{{- define "substrate.claims" -}}
{{- if .enabled }}
volumeClaimTemplates:
- metadata:
    name: data
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests: {storage: {{ .size }}}
{{- end }}
{{- end }}

{{- define "substrate.engineEnv" -}}
{{- if and .Values.store.bundled.enabled (or .Values.store.url .Values.store.cluster .Values.store.passwordSecret) }}
{{- fail "store.url, store.cluster and store.passwordSecret are of a store elsewhere: set store.bundled.enabled=false, or leave them out" }}
{{- end }}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- with .Values.store.passwordSecret }}
- name: STORE_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: password}
{{- end }}
- name: ATE_STORE
{{- if .Values.store.bundled.enabled }}
  value: rediss://ate-store.ate-system.svc:6379
{{- else }}
  value: {{ required "store.url: say where the store is, or set store.bundled.enabled" .Values.store.url | quote }}
{{- end }}
{{- end }}

{{- /* Liveness at the port and scheme of a component. */ -}}
{{- define "substrate.probes" -}}
readinessProbe:
  httpGet: {path: /readyz, {{ . }}}
  periodSeconds: 5
livenessProbe:
  httpGet: {path: /livez, {{ . }}}
  periodSeconds: 10
  failureThreshold: 6
  timeoutSeconds: 5
{{- end }}
