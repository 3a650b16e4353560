# Workloads
want created create deployment web --image="$image:v1" --replicas=2
want 'successfully rolled out' rollout status deployment/web --timeout=30s
want exposed expose deployment web --port=80 --target-port=8080 --name=web
soon '8080' get endpoints web
want '(?s)Endpoints: +\d+\.' describe service web
want 'web-' get endpointslices
want scaled scale deployment/web --replicas=3
refused 'Expected replicas|precondition' scale deployment/web --current-replicas=7 --replicas=1
soon '3/3 +3 +3' get deployment web
want 'image updated' set image deployment/web web="$image:v2"
want 'successfully rolled out' rollout status deployment/web --timeout=30s
want '(?s)1 .*2 ' rollout history deployment/web
want "web:v2" rollout history deployment/web --revision=2
want 'rolled back' rollout undo deployment/web
want 'successfully rolled out' rollout status deployment/web --timeout=30s
want 'web:v1' get deployment web -o wide
want paused rollout pause deployment/web
want 'image updated' set image deployment/web web="$image:v2"
want 'web:v1' get pods -o 'jsonpath={.items[*].spec.containers[0].image}'
refused 'paused' rollout restart deployment/web
want resumed rollout resume deployment/web
want 'successfully rolled out' rollout status deployment/web --timeout=30s
want restarted rollout restart deployment/web
want 'successfully rolled out' rollout status deployment/web --timeout=30s
want 'rolled back' rollout undo deployment/web --to-revision=3
want 'successfully rolled out' rollout status deployment/web --timeout=30s
# kubectl before 1.33 asks for autoscaling/v1.
want autoscaled autoscale deployment web --min=1 --max=5 --cpu-percent=80
want 'Deployment/web' get hpa web
want '(?s)^autoscaling/v1 80$' get horizontalpodautoscalers.v1.autoscaling web -o 'jsonpath={.apiVersion} {.spec.targetCPUUtilizationPercentage}'
want '(?s)^autoscaling/v2 80$' get horizontalpodautoscalers.v2.autoscaling web -o 'jsonpath={.apiVersion} {.spec.metrics[0].resource.target.averageUtilization}'
want - patch horizontalpodautoscalers.v1.autoscaling web --type=merge -p '{"spec": {"targetCPUUtilizationPercentage": 60}}'
want '^60 5$' get horizontalpodautoscalers.v2.autoscaling web -o 'jsonpath={.spec.metrics[0].resource.target.averageUtilization} {.spec.maxReplicas}'
want deleted delete hpa web
want '(?s)NewReplicaSet:.*ScalingReplicaSet' describe deployment web
want 'deployment.apps/web' get all
want '(?s)Controlled By: +Deployment/web' describe replicasets
want deleted delete deployment web --cascade=orphan
soon 'web-' get rs -o name
want deleted delete rs --all --cascade=foreground --wait
want - delete pods --all --grace-period=1
manifest kinds <<'Y'
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: db, image: "IMAGE:v1", volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: a, image: "IMAGE:v1"}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec:
  completions: 3
  parallelism: 2
  template:
    spec: {restartPolicy: Never, containers: [{name: j, image: "IMAGE:v1", command: [sh, -c, "echo done"]}]}
Y
want '(?s)statefulset.apps/db created.*job.batch/sums created' apply -f kinds.yaml
want '(?s)roll' rollout status statefulset/db --timeout=40s
want 'successfully rolled out' rollout status daemonset/agent --timeout=30s
want 'condition met' wait --for=condition=complete job/sums --timeout=30s
want 'sums +(Complete +)?3/3' get job sums
want 'done' logs job/sums
want 'db +2/2' get statefulset
want 'agent +1 +1 +1' get ds
want '(?s)data-db-0 +Bound' get pvc
want 'Bound' get pv
since_minor 23 want 'condition met' wait --for=jsonpath='{.status.phase}'=Bound pvc/data-db-1 --timeout=5s
want '(?s)Claim:.*data-db-0' describe pv
want '(?s)Used By: +db-0' describe pvc data-db-0
want '(?s)Volume Claims:.*data' describe statefulset db
want 'Number of Nodes Scheduled' describe daemonset agent
want '(?s)Parallelism: +2.*Pods Statuses' describe job sums
want 'restarted' rollout restart statefulset/db daemonset/agent
want 'rolling update complete|roll out complete|partitioned' rollout status statefulset/db --timeout=40s
want '2' rollout history statefulset/db
want 'rolled back' rollout undo daemonset/agent
want 'scaled' scale statefulset/db --replicas=1
soon '1/1' get statefulset db
want deleted delete -f kinds.yaml --timeout=30s
soon '^\s*$|No resources' get pods -l app=db
want deleted delete pvc --all
want '(?s)storageclass.*local-path|local-path' get storageclass
