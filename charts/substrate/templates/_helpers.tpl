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

{{- define "substrate.spread" -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {app: {{ . }}}
{{- end }}

{{- define "substrate.tlsArgs" -}}
- --tls-ca=/etc/ate/tls/ca.crt
- --tls-cert=/etc/ate/tls/tls.crt
- --tls-key=/etc/ate/tls/tls.key
{{- end }}

{{- define "substrate.engineArgs" -}}
{{- with .Values.snapshots.location }}
- --snapshots={{ . }}
{{- end }}
{{- if and (not .Values.store.bundled.enabled) .Values.store.cluster }}
- --store-cluster
{{- end }}
{{- end }}

{{- define "substrate.passwordSecret" -}}
{{- if .Values.store.passwordSecret }}{{ .Values.store.passwordSecret }}{{ else if .Values.store.bundled.enabled }}ate-store{{ end }}
{{- end }}

{{- define "substrate.passwordEnv" -}}
- name: STORE_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "substrate.passwordSecret" . }}, key: password}
{{- end }}

{{- define "substrate.engineEnv" -}}
{{- if and .Values.store.bundled.enabled (or .Values.store.url .Values.store.cluster) }}
{{- fail "store.url and store.cluster are of a store elsewhere: set store.bundled.enabled=false, or leave them out" }}
{{- end }}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- if include "substrate.passwordSecret" . }}
{{ include "substrate.passwordEnv" . }}
{{- end }}
- name: ATE_STORE
{{- if .Values.store.bundled.enabled }}
  value: redis://:$(STORE_PASSWORD)@ate-store.ate-system.svc:6379
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
