package stacksim

// WorkKind is a kind of work of the administrator.
type WorkKind uint8

// administrate does the work of the run.
func (w *World) administrate() { <-w.ctx.Done() }
