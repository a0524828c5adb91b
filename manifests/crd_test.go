package manifests

import (
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// internal converts a definition as the API server does.
func internal(t *testing.T, kind string) *apiextensions.CustomResourceDefinition {
	t.Helper()
	crds, err := CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range crds {
		if crd.Spec.Names.Kind != kind {
			continue
		}
		var out apiextensions.CustomResourceDefinition
		apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
		apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, &out, nil); err != nil {
			t.Fatal(err)
		}
		out.Status.StoredVersions = []string{"v1alpha1"}
		return &out
	}
	t.Fatalf("no definition of %s", kind)
	return nil
}

// The API server refuses a definition whose rules do not compile or could cost too much.
func TestTheAPIServerAcceptsTheDefinitions(t *testing.T) {
	for _, kind := range []string{"IOMeshCluster", "BlockDevice"} {
		if errs := crdvalidation.ValidateCustomResourceDefinition(t.Context(), internal(t, kind)); len(errs) > 0 {
			t.Errorf("%s: %v", kind, errs.ToAggregate())
		}
	}
}

// check applies defaults, the schema and the rules to a cluster; old may be empty (creation).
func check(t *testing.T, text, old string) field.ErrorList {
	t.Helper()
	crd := internal(t, "IOMeshCluster")
	props := crd.Spec.Validation
	if props == nil {
		props = crd.Spec.Versions[0].Schema
	}
	structural, err := schema.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(s string) map[string]any {
		m := map[string]any{}
		data, err := yaml.YAMLToJSON([]byte("apiVersion: iomesh.com/v1alpha1\nkind: IOMeshCluster\nmetadata: {name: iomesh, namespace: s}\n" + s))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &m); err != nil { // integers stay integers, as in the API server
			t.Fatal(err)
		}
		if strings.HasSuffix(s, longName) {
			m["metadata"].(map[string]any)["name"] = strings.Repeat("n", 41)
		}
		defaulting.Default(m, structural)
		return m
	}
	obj := parse(text)
	validator, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	errs := validation.ValidateCustomResource(nil, obj, validator)
	var before any
	if old != "" {
		before = parse(old)
	}
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	more, _ := rules.Validate(t.Context(), nil, structural, obj, before, celconfig.RuntimeCELCostBudget)
	return append(errs, more...)
}

// longName, in a text, gives the object a name of 41 characters.
const longName = "long name"

const sel = "selector: {matchLabels: {a: b}}"

func TestRulesOfIOMeshCluster(t *testing.T) {
	allFlash := "spec: {diskDeploymentMode: allFlash, chunk: {deviceMap: {dataStoreWithJournal: {" + sel + "}}}}"
	for name, tc := range map[string]struct{ text, old, want string }{
		"an empty wish is complete":                 {"spec: {}", "", ""},
		"all-flash with its mount type":             {allFlash, "", ""},
		"hybrid with its mount types":               {"spec: {chunk: {deviceMap: {cacheWithJournal: {" + sel + "}, dataStore: {" + sel + "}}}}", "", ""},
		"all-flash refuses a cache":                 {"spec: {diskDeploymentMode: allFlash, chunk: {deviceMap: {cacheWithJournal: {" + sel + "}}}}", "", "the only mount type is dataStoreWithJournal"},
		"hybrid, the default, refuses data+journal": {"spec: {chunk: {deviceMap: {dataStoreWithJournal: {" + sel + "}}}}", "", "set diskDeploymentMode: allFlash"},
		"an unknown mount type":                     {"spec: {chunk: {deviceMap: {rawCache: {" + sel + "}}}}", "", "keys are the mount types"},
		"an empty selector":                         {"spec: {chunk: {deviceMap: {dataStore: {selector: {}}}}}", "", "an empty selector would take every disk"},
		"an even number of members":                 {"spec: {meta: {replicas: 2}}", "", "supported values"},
		"the number of members is fixed":            {"spec: {meta: {replicas: 5}}", "spec: {meta: {replicas: 3}}", "cannot change once the cluster exists"},
		"the number of members stays":               {"spec: {meta: {replicas: 3}}", "spec: {}", ""},
		"a network without mask":                    {"spec: {chunk: {dataCIDR: 10.0.0.1}}", "", "must be a network such as"},
		"a network":                                 {"spec: {chunk: {dataCIDR: 10.0.0.0/24}}", "", ""},
		"an IPv6 network":                           {"spec: {chunk: {dataCIDR: \"fd00::/64\"}}", "", ""},
		"two different networks":                    {"spec: {chunk: {dataCIDR: 10.0.0.0/24}, redirector: {dataCIDR: 10.0.1.0/24}}", "", "must equal chunk.dataCIDR"},
		"an unknown attach mode":                    {"spec: {attach: nbd}", "", "supported values"},
		"a relative backing file":                   {"spec: {devices: {loopBackingFiles: {n1: [disk.img]}}}", "", "should match"},
		"the mode stays while disks are mapped":     {"spec: {diskDeploymentMode: hybridFlash}", allFlash, "remove the mount types first"},
		"the mode may change before any":            {allFlash, "spec: {}", ""},
		"a name too long for what is made from it":  {"spec: {}\n#" + longName, "", "at most 40 characters"},
		"a manifest of the original": {`spec:
  chunk:
    dataCIDR: 10.234.1.0/24
    devicemanager: {blockDeviceNamespace: iomesh-system, image: "iomesh/operator-devicemanager:v1.0.0"}
    image: iomesh/zbs-chunkd:v5.3.0-rc13
    replicas: 3
    podPolicy: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: []}}}
  diskDeploymentMode: hybridFlash
  meta: {image: "iomesh/zbs-metad:v5.3.0-rc13", replicas: 3}
  portOffset: -1
  probe: {image: "iomesh/operator-probe:v1.0.0"}
  reclaimPolicy: {blockdevice: Delete, volume: Delete}
  redirector: {dataCIDR: 10.234.1.0/24, image: "iomesh/zbs-iscsi-redirectord:v5.3.0-rc13", iscsiVirtualIP: 1.2.3.4, podPolicy: {nodeSelector: {a: b}}}
  storageClass: hostpath
  licenseSecretName: license
  toolbox: {image: "iomesh/operator-toolbox:v1.0.0"}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := tc.text
			errs := check(t, text, tc.old)
			switch {
			case tc.want == "" && len(errs) > 0:
				t.Errorf("refused: %v", errs.ToAggregate())
			case tc.want != "" && (len(errs) == 0 || !strings.Contains(strings.ToLower(errs.ToAggregate().Error()), strings.ToLower(tc.want))):
				t.Errorf("errors %v, want one that says %q", errs.ToAggregate(), tc.want)
			}
		})
	}
}
