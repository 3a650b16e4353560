# Output in every form
for n in 1 2 3; do run run p$n --image="$image:v1" --labels="n=$n,odd=$((n % 2))"; done
want 'condition met' wait --for=condition=Ready pods --all --timeout=20s
want '"kind": "List"' get pods -o json
want 'kind: List' get pods -o yaml
want 'pod/p1\npod/p2\npod/p3' get pods -o name
want 'IP +NODE' get pods -o wide
want '^p1 p2 p3' get pods -o 'jsonpath={.items[*].metadata.name}'
want '(?s)p1=Running\np2=Running' get pods -o 'jsonpath={range .items[*]}{.metadata.name}={.status.phase}{"\n"}{end}'
want '^p1p2p3' get pods -o 'go-template={{range .items}}{{.metadata.name}}{{end}}'
want 'NAME +IMG\np1 +' get pods -o 'custom-columns=NAME:.metadata.name,IMG:.spec.containers[*].image'
want 'p1 .*p3' get pods -l odd=1 -o 'jsonpath={.items[*].metadata.name}'
want '^p2' get pods -l 'odd!=1,n' -o name --no-headers -o 'jsonpath={.items[*].metadata.name}'
want 'p2' get pods -l 'n notin (1,3)'
want 'p1' get pods --field-selector=status.phase=Running,metadata.name=p1
want 'p2' get pods --field-selector='metadata.name!=p1'
refused 'field label not supported' get pods --field-selector=spec.nothing=1
want 'N +ODD|n=1' get pods -L n,odd
want 'n=1,odd=1' get pods --show-labels
want 'NAMESPACE' get pods -A
want '(?s)p1.*p2.*p3' get pods --chunk-size=1
want 'pod/p1.*service/kubernetes|service' get pods,svc -n default
want 'p1' get pod/p1 pod/p2
want 'p1' get -f <(printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: p1}\n')
that 'kubectl get --watch shows what changes' bash -c "timeout 6 '$kubectl' get pods --watch --output-watch-events > watched & sleep 0.7; '$kubectl' label pod p1 seen=yes > /dev/null; '$kubectl' delete pod p3 --grace-period=0 --force > /dev/null 2>&1; wait; grep -q 'MODIFIED.*p1' watched && grep -q 'DELETED.*p3' watched"
that 'kubectl get --watch-only' bash -c "timeout 2 '$kubectl' get pods --watch-only > watched & sleep 0.7; '$kubectl' label pod p1 seen=no --overwrite > /dev/null; wait; grep -q p1 watched"
want 'deleted' delete pods --field-selector=metadata.name=p1 --grace-period=0 --force
want 'deleted' delete pods -l n=2 --grace-period=0 --force
for kind in $("$kubectl" api-resources --verbs=list -o name); do want - get "$kind" -A -o wide; done
