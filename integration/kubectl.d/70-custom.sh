# Custom resources
cat > crd.yaml <<'Y'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [cronSpec]
            properties:
              cronSpec: {type: string, pattern: '^(\S+\s+){4}\S+$', description: When it runs.}
              image: {type: string, default: busybox}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}
              extra: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties: {replicas: {type: integer}, labelSelector: {type: string}, phase: {type: string}}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Image, type: string, priority: 1, jsonPath: .spec.image}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
Y
want 'customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created' apply -f crd.yaml
want 'condition met' wait --for=condition=Established crd/crontabs.stable.example.com --timeout=10s
want unchanged apply -f crd.yaml
want 'crontabs +ct +stable.example.com/v1 +true +CronTab' api-resources --api-group=stable.example.com
want 'crontabs.stable.example.com +\d{4}-' get crd
want 'Accepted Names' describe crd crontabs.stable.example.com
tab() { printf 'apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: %s}\nspec: {%s}\n' "$1" "$2"; }
tab one 'cronSpec: "* * * * */5", extra: {any: [thing]}' > ct.yaml
want 'crontab.stable.example.com/one created' apply -f ct.yaml
want unchanged apply -f ct.yaml
want 'one +\* \* \* \* \*/5 +1 +\d+s' get ct
want '(?s)IMAGE.*busybox' get crontabs -o wide
want 'any' get ct one -o yaml
want 'Cron Spec: +\*' describe ct one
want 'one' get all
want 'When it runs' explain crontab.spec.cronSpec
want 'cronSpec' explain ct.spec --recursive
tab two 'replicas: 3' > bad.yaml
refused 'spec.cronSpec: Required value|missing required field "cronSpec"' create -f bad.yaml
tab two 'cronSpec: "* * * * *", replicas: 99' > bad.yaml
refused 'spec.replicas: Invalid value: 99: spec.replicas in body should be less than or equal to 10' create -f bad.yaml
tab two 'cronSpec: never' > bad.yaml
refused 'spec.cronSpec in body should match' create -f bad.yaml --validate=false
tab two 'cronSpec: "* * * * *", replicas: many' > bad.yaml
refused 'must be of type integer|invalid type for' create -f bad.yaml --validate=false
tab two 'cronSpec: "* * * * *", typo: 1' > bad.yaml
refused 'unknown field "?.*typo' create -f bad.yaml
want created create -f bad.yaml --validate=false
refused typo get ct two -o 'jsonpath={.spec.typo.x}' --allow-missing-template-keys=false
want deleted delete ct two
want 'serverside-applied' apply --server-side --field-manager=a -f <(tab ssa 'cronSpec: "* * * * *", ports: [{name: a, port: 1}]')
want 'serverside-applied' apply --server-side --validate=false --field-manager=b -f <(printf 'apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: ssa}\nspec: {ports: [{name: b, port: 2}]}\n')
want '^a b$' get ct ssa -o 'jsonpath={.spec.ports[*].name}'
refused 'conflict with "a".*cronSpec' apply --server-side --field-manager=b -f <(tab ssa 'cronSpec: "1 * * * *"')
want patched patch ct one --type=merge -p '{"spec":{"image":"other"}}'
refused 'media type|UnsupportedMediaType|strategic' patch ct one --type=strategic -p '{"spec":{"image":"other"}}'
want scaled scale ct one --replicas=4
want '^4$' get ct one -o 'jsonpath={.spec.replicas}'
want '^3$' get ct one -o 'jsonpath={.metadata.generation}'
since_minor 24 want patched patch ct one --subresource=status --type=merge -p '{"status":{"phase":"Good","replicas":4},"spec":{"image":"ignored"}}'
since_minor 24 want '^Good other 3$' get ct one -o 'jsonpath={.status.phase} {.spec.image} {.metadata.generation}'
since_minor 23 want 'condition met' wait --for=jsonpath='{.status.phase}'=Good ct/one --timeout=5s
want 'stable.example.com/v1beta1' get crontabs.v1beta1.stable.example.com one -o 'jsonpath={.apiVersion}'
want labeled label ct one tier=x
want 'one' get ct -l tier=x -o name
that 'kubectl get --watch of a custom resource' bash -c "timeout 2 '$kubectl' get ct --watch-only > watched & sleep 0.7; '$kubectl' annotate ct one seen=yes > /dev/null; wait; grep -q one watched"
want created apply -f - <<Y
apiVersion: v1
kind: ConfigMap
metadata:
  name: owned
  ownerReferences: [{apiVersion: stable.example.com/v1, kind: CronTab, name: one, uid: "$(k get ct one -o jsonpath={.metadata.uid})"}]
Y
want deleted delete ct one
soon '^\s*$' get configmap owned --ignore-not-found
refused 'unique version names|is invalid' apply -f <(sed 's/name: v1beta1/name: v1/' crd.yaml)
refused 'spec.names.plural' apply -f <(sed 's/crontabs.stable/others.stable/' crd.yaml)
want deleted delete crd crontabs.stable.example.com --timeout=20s
refused "doesn.t have a resource type|could not find the requested resource|NotFound" get ct ssa
want created apply -f crd.yaml
want 'condition met' wait --for=condition=Established crd/crontabs.stable.example.com --timeout=10s
want 'No resources found' get ct
want deleted delete -f crd.yaml --timeout=20s
