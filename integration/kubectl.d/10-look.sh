# Look around
want 'v1\.36' version
want '"gitVersion": "v1\.36' version -o json
want 'control plane.*is running' cluster-info
want 'deployments +deploy +apps/v1 +true +Deployment' api-resources
want 'pods +po .*create,? ?delete.*watch' api-resources -o wide --sort-by=kind
want '(?s)^(?!.*\nnodes).*pods' api-resources --namespaced=true -o name
want 'storageclasses' api-resources --namespaced=false --api-group=storage.k8s.io
want 'rbac.authorization.k8s.io/v1' api-versions
want 'containers.*Required|containers.*required' explain pod.spec
want 'rollingUpdate' explain deployment.spec.strategy
want 'terminationGracePeriodSeconds' explain pods --recursive
want 'limits' explain pod.spec.containers.resources
refused "field .?nothing.* does not exist" explain pod.spec.nothing
want 'node-1 +Ready' get nodes
want 'rrun-cri://' get nodes -o wide
want '(?s)Capacity:.*Allocatable:.*Allocated resources' describe node node-1
want 'kube-system' get namespaces
want 'Active' describe namespace default
want '"ok"|^ok' get --raw /readyz
want '"groups"' get --raw /apis
want 'gauge|counter' get --raw /metrics
want yes auth can-i delete pods
want '(?s)Resources.*\[\*\]' auth can-i --list
refused no auth can-i delete pods --as system:anonymous
since_minor 28 want 'kubernetes-admin|system:masters' auth whoami
since_minor 28 want 'system:masters' auth whoami -o yaml
want "$namespace" config view --minify
want 'https' config view -o 'jsonpath={.clusters[0].cluster.server}'
refused 'the server doesn.t have a resource type' get nonsense
refused '\(NotFound\)' get pod nobody
refused 'NotFound' get pods/nobody -o yaml
want 'No resources found' get pods
since_minor 22 want 'No events found|LAST SEEN' events
