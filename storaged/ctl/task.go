package ctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

type taskView struct {
	ID         string     `json:"id"`
	Kind       string     `json:"kind"`
	Object     string     `json:"object"`
	State      string     `json:"state"`
	BytesDone  uint64     `json:"bytesDone"`
	BytesTotal uint64     `json:"bytesTotal"`
	Started    *time.Time `json:"started,omitempty"`
	Message    string     `json:"message,omitempty"`
}

func viewTasks(tasks []*storagedv1.Task) []taskView {
	out := []taskView{}
	for _, t := range tasks {
		out = append(out, taskView{ID: t.GetId(), Kind: t.GetKind(), Object: t.GetObject(), State: t.GetState(), BytesDone: t.GetBytesDone(), BytesTotal: t.GetBytesTotal(), Started: timeOf(t.GetStarted()), Message: t.GetMessage()})
	}
	return out
}

func taskTable(w io.Writer, views []taskView) {
	var rows [][]string
	for _, t := range views {
		progress := ""
		if t.BytesTotal > 0 {
			progress = fmt.Sprintf("%s of %s", bytesText(t.BytesDone), bytesText(t.BytesTotal))
		}
		rows = append(rows, []string{t.Kind, t.Object, t.State, progress, t.Message})
	}
	columns(w, "TASK OBJECT STATE PROGRESS MESSAGE", rows)
}

func (a *app) taskCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List copies, drains, moves and deletions under way", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.run(cmd, "list tasks", func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
			resp, err := cc.ListTasks(ctx, &storagedv1.ListTasksRequest{})
			if err != nil {
				return err
			}
			views := viewTasks(resp.GetTasks())
			return a.print(cmd.OutOrStdout(), newList("TaskList", views), func(w io.Writer) { taskTable(w, views) })
		})
	}}
	return group("task", "List what is under way", list)
}
