package manifests

import (
	"strings"
	"testing"
)

func TestPodDeletePolicyIsOptIn(t *testing.T) {
	const args, rights = "--pod-delete-policy", "resources: [pods], verbs: [delete]"
	for name, tc := range map[string]struct {
		values string
		want   bool
		fails  string
	}{
		"off by default":         {"", false, ""},
		"the original's default": {"csi-driver: {driver: {controller: {driver: {podDeletePolicy: no-delete-pod, podDeleteLatency: 90s}}}}", false, ""},
		"chosen":                 {"csi-driver: {driver: {controller: {driver: {podDeletePolicy: delete-statefulset-pod, podDeleteLatency: 1m30s}}}}", true, ""},
		"a policy that is none":  {"csi-driver: {driver: {controller: {driver: {podDeletePolicy: delete-all}}}}", false, "podDeletePolicy"},
		"a latency without unit": {"csi-driver: {driver: {controller: {driver: {podDeleteLatency: \"90\"}}}}", false, "podDeleteLatency"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := render(t, tc.values)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("error %v, want one about %s", err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out["controller.yaml"], args) != tc.want || strings.Contains(out["rbac-controller.yaml"], rights) != tc.want {
				t.Errorf("argument %t, rights %t, want %t", strings.Contains(out["controller.yaml"], args), strings.Contains(out["rbac-controller.yaml"], rights), tc.want)
			}
		})
	}
}
