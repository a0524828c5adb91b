package view

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func podReady(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// PodReady reports the pod's Ready condition; a pod on its way out is not ready.
func PodReady(p *corev1.Pod) bool { return podReady(p) }

// podTrouble says what holds pods up: not scheduled, image not pulled, crashing. The first of each pod, at most three pods.
func podTrouble(pods []corev1.Pod) string {
	var out []string
	for i := range pods {
		if t := trouble(&pods[i]); t != "" {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	if len(out) > 3 {
		out = append(out[:3], fmt.Sprintf("and %d more pods", len(out)-3))
	}
	return strings.Join(out, "; ")
}

func trouble(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("pod %s is not scheduled: %s", p.Name, c.Message)
		}
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			text := fmt.Sprintf("pod %s, container %s: %s", p.Name, c.Name, w.Reason)
			if t := c.LastTerminationState.Terminated; t != nil && t.Message != "" {
				return text + ": " + lastLine(t.Message)
			}
			if w.Message != "" {
				return text + ": " + lastLine(w.Message)
			}
			return text
		}
		if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("pod %s, container %s ended with exit code %d%s", p.Name, c.Name, t.ExitCode, suffix(lastLine(t.Message)))
		}
	}
	return ""
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// chunkTrouble is podTrouble of the chunk pods.
func chunkTrouble(f *Facts) string {
	var pods []corev1.Pod
	for _, p := range f.ChunkPods {
		pods = append(pods, *p)
	}
	return podTrouble(pods)
}
