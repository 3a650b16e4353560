# Create, apply, patch and edit
want created create configmap conf --from-literal=a=1 --from-literal=b=2
printf 'A=1\nB=two words\n' > env.list
want created create configmap from-env --from-env-file=env.list
mkdir -p conf.d && echo hello > conf.d/greeting && head -c 300 /dev/urandom > conf.d/bytes
want created create configmap from-dir --from-file=conf.d
that 'binaryData comes back byte for byte' bash -c "'$kubectl' get cm from-dir -o 'jsonpath={.binaryData.bytes}' | base64 -d | cmp - conf.d/bytes"
want '(?s)Data.*====.*greeting' describe configmap from-dir
want created create secret generic plain --from-literal=user=admin --from-literal=password=s3cret
want 'password: +6 bytes' describe secret plain
want created create secret docker-registry pull --docker-server=registry.test --docker-username=u --docker-password=p
openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 1 -subj /CN=web.test 2> /dev/null
want created create secret tls cert --cert=tls.crt --key=tls.key
want 'kubernetes.io/tls +2' get secrets
want created create serviceaccount robot
want created create role reader --verb=get,list --resource=pods,pods/log
want created create rolebinding reads --role=reader --serviceaccount="$namespace:robot"
want yes auth can-i list pods --as "system:serviceaccount:$namespace:robot"
refused no auth can-i delete pods --as "system:serviceaccount:$namespace:robot"
refused 'Forbidden.*cannot delete resource "pods"' delete pod nobody --as "system:serviceaccount:$namespace:robot"
want '(?s)PolicyRule.*pods/log' describe role reader
want 'robot' describe rolebinding reads
want created create clusterrole looks --verb=get --resource=nodes
want created create clusterrolebinding looking --clusterrole=looks --serviceaccount="$namespace:robot"
want deleted delete clusterrole/looks clusterrolebinding/looking
since_minor 24 want '^ey' create token robot --duration=10m
# A user by a certificate that they asked for.
request() { # NAME SUBJECT
    openssl req -new -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2> /dev/null
    cat <<Y
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: $1}
spec:
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth, digital signature]
  request: $(base64 -w 0 < "$1.csr")
Y
}
want created apply -f - <<< "$(request ann /O=dev/O=ops/CN=ann)"
want 'ann .*kube-apiserver-client +kubernetes-admin .*Pending' get csr
want approved certificate approve ann
soon 'Approved,Issued' get csr ann
that 'the certificate fits its request' bash -c "'$kubectl' get csr ann -o 'jsonpath={.status.certificate}' | base64 -d > ann.crt && openssl x509 -in ann.crt -noout -subject | grep -q 'O = dev, O = ops, CN = ann'"
# (`config set-credentials` of Debian's 1.20 ends in a fault of its own.)
k config view --raw --minify -o json | jq --arg crt "$(base64 -w 0 < ann.crt)" --arg key "$(base64 -w 0 < ann.key)" \
    '.users[0].user = {"client-certificate-data": $crt, "client-key-data": $key}' > ann.conf
refused 'User "ann" cannot list resource "pods"' get pods --kubeconfig=ann.conf
want created create rolebinding ops-read --role=reader --group=ops
want 'No resources found' get pods --kubeconfig=ann.conf
want created apply -f - <<< "$(request bob /CN=bob)"
want denied certificate deny bob
want 'bob .*Denied' get csr bob
refused 'not allowed' apply -f - <<< "$(request eve /O=system:masters/CN=eve)"
want '(?s)ann.*bob' delete csr ann bob
want '(?s)pods/exec.*pods/log|pods/log.*pods/exec' get clusterrole admin -o 'jsonpath={.rules[*].resources}'
want created create quota small --hard=pods=10,configmaps=20
soon '(?s)configmaps +\d+ +20' describe quota small
want created create priorityclass high-$$ --value=1000 --description=important
want '1000' get priorityclass high-$$
want deleted delete priorityclass high-$$
since_minor 22 want created create poddisruptionbudget keep --selector=app=web --min-available=1
since_minor 22 want 'keep +1 +N/A' get pdb
want created create deployment made --image="$image:v1" --replicas=0
want created create service clusterip internal --tcp=80:8080
want created create service nodeport outside --tcp=80:8080
want created create service externalname alias --external-name=example.test
want 'ExternalName +<none> +example.test' get services
want created create job once --image="$image:v1" -- true
since_minor 21 want created create cronjob nightly --image="$image:v1" --schedule='0 3 * * *' -- true
since_minor 21 want 'nightly +0 3 \* \* \*' get cronjobs
since_minor 21 want created create job by-hand --from=cronjob/nightly
served ingresses want created create ingress front --class=none --rule='web.test/*=internal:80'
want '(?s)kind: Deployment' create deployment dry --image=i --dry-run=client -o yaml
want 'server dry run' create deployment dry --image=i --dry-run=server
refused NotFound get deployment dry

manifest web <<'Y'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: IMAGE:v1
        ports: [{containerPort: 8080}]
        env: [{name: A, value: "1"}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080, name: http}]}
Y
want '(?s)deployment.apps/web created.*service/web created' apply -f web.yaml
want '(?s)deployment.apps/web unchanged.*service/web unchanged' apply -f web.yaml
want - diff -f web.yaml
sed 's/value: "1"/value: "2"/' web.yaml > web2.yaml
refused '(?s)-.*value: "1".*\+.*value: "2"' diff -f web2.yaml
want 'server dry run' apply --dry-run=server -f web2.yaml
want 1 get deployment web -o 'jsonpath={.spec.template.spec.containers[0].env[0].value}'
want 'deployment.apps/web configured' apply -f web2.yaml
want 'last-applied|A' apply view-last-applied deployment/web
want configured apply set-last-applied -f web.yaml --create-annotation
want 'serverside-applied' apply --server-side --force-conflicts -f web.yaml
refused 'conflict' apply --server-side --field-manager=other -f web2.yaml
want 'serverside-applied' apply --server-side --field-manager=other --force-conflicts -f web2.yaml
want 'manager: other' get deployment web -o yaml $([ "$minor" -lt 21 ] || echo --show-managed-fields)
since_minor 27 want 'unchanged|configured|serverside' apply --server-side --dry-run=server -f web2.yaml --force-conflicts
refused 'unknown field|ValidationError' apply -f <(sed 's/replicas/replica/' web.yaml)
since_minor 27 want 'Warning: unknown field' apply --validate=warn --dry-run=server -f <(sed 's/replicas/replica/' web.yaml)
refused '(?s)is invalid:.*does not match template' apply -f <(sed 's/matchLabels: {app: web}/matchLabels: {app: other}/' web.yaml)
refused 'RFC 1123' create -f <(sed 's/name: web/name: Web_/' web.yaml)
refused 'already exists' create -f web.yaml
want 'deployment.apps/web replaced' replace -f web.yaml
sed '1,/^---/d' web.yaml > service.yaml
want 'service/web replaced' replace --force -f service.yaml
want 'patched' patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"B","value":"b"}]}]}}}}'
want 'patched' patch deployment web --type=merge -p '{"metadata":{"labels":{"merged":"yes","app":null}}}'
want 'patched' patch deployment web --type=json -p '[{"op":"add","path":"/metadata/labels/json","value":"yes"},{"op":"test","path":"/spec/replicas","value":0}]'
refused 'invalid' patch deployment web --type=json -p '[{"op":"test","path":"/spec/replicas","value":7}]'
want 'no change|patched' patch deployment web --type=merge -p '{"metadata":{"labels":{"merged":"yes"}}}'
since_minor 24 want patched patch deployment web --subresource=status --type=merge -p '{"status":{"observedGeneration":1}}'
since_minor 24 want patched patch deployment web --subresource=scale --type=merge -p '{"spec":{"replicas":0}}'
since_minor 24 want "^NAME +DESIRED +AVAILABLE +AGE\nweb +0 " get deployment web --subresource=scale
printf '#!/bin/sh\nsed -i "s/merged: .*/merged: edited/" "$1"\n' > editor && chmod +x editor
that 'kubectl edit with a program as editor' env KUBE_EDITOR="$work/editor" "$kubectl" edit deployment web
want edited get deployment web -o 'jsonpath={.metadata.labels.merged}'
want labeled label deployment web tier=front
refused 'already has a value' label deployment web tier=back
want labeled label deployment web tier=back --overwrite
want 'unlabeled|labeled' label deployment web tier-
want annotated annotate service web note='a b'
want 'a b' get service web -o 'jsonpath={.metadata.annotations.note}'
want 'env updated' set env deployment/web C=3 B-
want 'C=3' set env deployment/web --list
want 'resource requirements updated' set resources deployment/web --limits=cpu=100m,memory=64Mi --requests=cpu=10m
want 'serviceaccount updated' set serviceaccount deployment web robot
want 'selector updated' set selector service web app=web,tier=x
want 'subjects updated' set subject rolebinding reads --user=somebody
want 'image updated' set image deployment/web web="$image:v2"
refused 'immutable' patch deployment web --type=merge -p '{"spec":{"selector":{"matchLabels":{"app":"other"}}}}'
refused 'immutable|may not change|field is immutable' patch service web --type=merge -p '{"spec":{"clusterIP":"10.96.0.77"}}'

mkdir -p kustom/base kustom/over
cp web.yaml kustom/base/
printf 'resources: [web.yaml]\n' > kustom/base/kustomization.yaml
# kustomize before 3 has another word for a directory.
base=resources
[ "$minor" -ge 21 ] || base=bases
printf "namePrefix: k-\n$base: [../base]\nconfigMapGenerator: [{name: gen, literals: [x=y]}]\ncommonLabels: {by: kustomize}\n" > kustom/over/kustomization.yaml
want '(?s)configmap/k-gen-\w+ created.*deployment.apps/k-web created' apply -k kustom/over
want 'k-web' kustomize kustom/over
want '(?s)k-web' get -k kustom/over
want deleted delete -k kustom/over
allow=--prune-allowlist=core/v1/ConfigMap
[ "$minor" -ge 26 ] || allow=--prune-whitelist=core/v1/ConfigMap
mkdir -p pruned && for n in one two; do printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prune-%s, labels: {set: p}}\n' $n > pruned/$n.yaml; done
want 'prune-two created' apply -f pruned --prune -l set=p "$allow"
rm pruned/two.yaml
want 'prune-two pruned' apply -f pruned --prune -l set=p "$allow"
want 'deleted' delete -f web.yaml
want 'deleted' delete configmap --all
