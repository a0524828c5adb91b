package link

import (
	corev1 "k8s.io/api/core/v1"
)

// Image returns the image of a pod's main container: what runs, or what is wished for while nothing runs.
func Image(p *corev1.Pod) string {
	if len(p.Spec.Containers) == 0 {
		return ""
	}
	return p.Spec.Containers[0].Image
}

// Trouble says in one line why a pod is not ready, "" when it is. The first reason is the deepest that Kubernetes tells.
func Trouble(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "is being deleted"
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			switch {
			case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing" && c.State.Waiting.Reason != "ContainerCreating":
				text := "container " + c.Name + ": " + c.State.Waiting.Reason
				if m := c.State.Waiting.Message; m != "" {
					text += " (" + m + ")"
				} else if t := c.LastTerminationState.Terminated; t != nil && t.Message != "" {
					text += " (" + t.Message + ")"
				}
				return text
			case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
				return "container " + c.Name + " ended: " + c.State.Terminated.Reason
			}
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "cannot be scheduled: " + c.Message
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		if !c.Ready {
			if c.State.Waiting != nil {
				return "container " + c.Name + " is starting"
			}
			return "container " + c.Name + " is not ready yet"
		}
	}
	if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodSucceeded {
		return "is " + string(p.Status.Phase)
	}
	return ""
}
