{{- define "what-next.name" -}}
{{- printf "%s-what-next" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "what-next.selector" -}}
app.kubernetes.io/name: what-next
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "what-next.labels" -}}
{{ include "what-next.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* What every pod of the release shares: who it runs as, where its files are, and its database. */}}
{{- define "what-next.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false  # a Service called what-next would put an address into WHAT_NEXT_PORT
{{- with .Values.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
volumes:
  - name: files
    persistentVolumeClaim: { claimName: {{ required "files.claim: name a volume with setup.txt and the model" .Values.files.claim }} }
  - name: tmp
    emptyDir: {}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "what-next.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
workingDir: /srv/what-next
env:
  - name: WHAT_NEXT_SETUP
    value: /srv/what-next/{{ .Values.files.setup }}
  - name: WHAT_NEXT_STORE
    valueFrom:
      secretKeyRef: { name: {{ required "database.secret: name a Secret with the store's URL" .Values.database.secret }}, key: {{ .Values.database.key }} }
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: ["ALL"] }
volumeMounts:
  - { name: files, mountPath: /srv/what-next }
  - { name: tmp, mountPath: /tmp }
{{- end -}}
