# helm: a chart's whole life (HELM=PROGRAM; 3 and 4)
helm=$(command -v "${HELM:-helm}") || helm=''
if [ -z "$helm" ]; then
    skipped+=("a chart's life (no helm: HELM=PROGRAM)")
    return 0
fi
# helm WORDS... as k, want and refused for kubectl.
helm() { said=$(timeout $((90 * ${RRUN_TIME_SCALE:-1})) "$helm" "$@" 2>&1); }
helms() { # PATTERN WORDS...: it succeeds and says PATTERN
    local pattern=$1 status=0
    shift
    helm "$@" || status=$?
    if [ $status = 0 ] && says "$pattern"; then pass "helm $*"; else fail "helm $*" "(status $status, wanted: $pattern) $said"; fi
}
helm_refuses() { # PATTERN WORDS...
    local pattern=$1 status=0
    shift
    helm "$@" || status=$?
    if [ $status != 0 ] && says "$pattern"; then pass "helm $*: refused"; else fail "helm $*" "(status $status, a refusal was wanted: $pattern) $said"; fi
}
export HELM_CACHE_HOME=$work/helm/cache HELM_CONFIG_HOME=$work/helm/config HELM_DATA_HOME=$work/helm/data
major=$("$helm" version --template '{{.Version}}' | sed 's/^v\([0-9]*\).*/\1/')
atomic=--atomic
[ "$major" -lt 4 ] || atomic=--rollback-on-failure

helms 'Creating' create demo
# The images of the chart that helm makes are not here: a test and hooks of our own, a kind, and a look at the server.
rm -rf demo/templates/tests
mkdir -p demo/crds
cat > demo/crds/widgets.yaml <<'Y'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.helm.test}
spec:
  group: helm.test
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
Y
cat > demo/templates/more.yaml <<'Y'
apiVersion: helm.test/v1
kind: Widget
metadata: {name: {{ include "demo.fullname" . }}}
spec: {size: {{ .Values.size }}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-looked}
data:
  phase: {{ (get (lookup "v1" "Namespace" "" "kube-system" | default dict) "status" | default dict).phase | default "none" | quote }}
  nodes: {{ range (lookup "v1" "Node" "" "").items }}{{ .metadata.name }}{{ end }}
  apps: {{ .Capabilities.APIVersions.Has "apps/v1/Deployment" | quote }}
Y
for hook in pre-install post-install pre-upgrade post-rollback pre-delete; do
    cat > "demo/templates/$hook.yaml" <<Y
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-$hook
  annotations: {"helm.sh/hook": $hook, "helm.sh/hook-delete-policy": before-hook-creation}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "$image:v1", command: [echo, $hook]}]}}
Y
done
cat > demo/templates/test.yaml <<Y
apiVersion: v1
kind: Pod
metadata: {name: {{ .Release.Name }}-test, annotations: {"helm.sh/hook": test}}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "$image:v1", command: [wget, -q, -O-, "http://{{ include "demo.fullname" . }}:8080/cgi-bin/index.cgi"]}]
Y
cat > values.yaml <<Y
image: {repository: $image, tag: v1}
service: {port: 8080}
size: 1
livenessProbe: {httpGet: {path: /cgi-bin/index.cgi, port: http}}
readinessProbe: {httpGet: {path: /cgi-bin/index.cgi, port: http}, periodSeconds: 1}
Y
helms '1 chart\(s\) linted, 0 chart\(s\) failed' lint demo -f values.yaml
helms 'STATUS: deployed' install one demo -f values.yaml --wait --timeout 60s
want '^1 Active node-1 true$' get widget/one-demo cm/one-looked \
    -o 'jsonpath={.items[0].spec.size} {.items[1].data.phase} {.items[1].data.nodes} {.items[1].data.apps}'
want 'pre-install' logs job/one-pre-install
want 'post-install' logs job/one-post-install
helm_refuses 'cannot re-?use a name' install one demo -f values.yaml
helms 'one.*deployed.*demo-0\.1\.0' list
helms '(?s)STATUS: deployed.*demo' status one
helms 'has been upgraded' upgrade one demo -f values.yaml --set size=2,replicaCount=2 --wait --timeout 60s
want '^2 2$' get widget/one-demo deployment/one-demo -o 'jsonpath={.items[0].spec.size} {.items[1].status.readyReplicas}'
helms 'has been upgraded' upgrade --install one demo -f values.yaml --set size=9 --dry-run=server
helm_refuses 'UPGRADE FAILED.*rolled back' upgrade one demo -f values.yaml --set image.tag=nowhere $atomic --timeout 5s
helms '(?s)superseded.*failed.*deployed.*Rollback to 2' history one
soon '^2 2$' get widget/one-demo deployment/one-demo -o 'jsonpath={.items[0].spec.size} {.items[1].status.readyReplicas}'
helms 'Rollback was a success' rollback one 1 --wait --timeout 60s
want '^1 1$' get widget/one-demo deployment/one-demo -o 'jsonpath={.items[0].spec.size} {.items[1].spec.replicas}'
helms '(?s)Phase: +Succeeded.*one-demo.* serves v1' test one --logs --timeout 60s
helm_refuses 'INSTALLATION FAILED' install bad demo -f values.yaml --set image.tag=nowhere,serviceAccount.create=false $atomic --timeout 4s
helms '^(?!.*bad)' list --all-namespaces
helms 'kind: Deployment' get manifest one
helms 'helm.sh/hook' get hooks one
helms 'uninstalled' uninstall one --wait --timeout 60s
want '^$' get deployments,services,widgets,configmaps -l app.kubernetes.io/instance=one -o name
want '^$' get secrets -l owner=helm -o name
want 'widgets.helm.test' get crd -o name
want deleted delete jobs,pods --all --grace-period=1
want deleted delete crd widgets.helm.test
