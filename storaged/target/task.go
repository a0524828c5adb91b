package target

// task is the target's side of one SCSI command in progress.
type task struct{}
