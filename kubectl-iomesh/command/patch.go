package command

import (
	"context"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// patcher is the API of one kind, typed or not.
type patcher[T any] interface {
	Patch(ctx context.Context, name string, kind types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (T, error)
}

// mergePatch changes the fields of an object that patch names, in the plugin's name. With dryRun the API server only judges it.
func mergePatch[T any](ctx context.Context, api patcher[T], name string, patch map[string]any, dryRun []string) error {
	b, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = api.Patch(ctx, name, types.MergePatchType, b, metav1.PatchOptions{FieldManager: fieldManager, DryRun: dryRun})
	return err
}

// labelPatch sets a label; annotationPatch an annotation, or removes it when value is nil.
func labelPatch(key, value string) map[string]any { return metadataPatch("labels", key, value) }

func annotationPatch(key string, value any) map[string]any {
	return metadataPatch("annotations", key, value)
}

func metadataPatch(field, key string, value any) map[string]any {
	return map[string]any{"metadata": map[string]any{field: map[string]any{key: value}}}
}
