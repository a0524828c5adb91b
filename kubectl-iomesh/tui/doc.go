// Package tui is the interactive form of `kubectl iomesh disk map`: nodes and disks, a choice made by keys, and a live preview of the pool.
//
// It only reads. What it returns is a choice; the command then shows the plan, asks for confirmation and applies it, exactly as for the
// flags that the last line of the screen shows. All I/O is in commands that return messages: a read of the devices each few seconds, and a
// failed one marks the screen as stale instead of ending it.
//
//	update: key, size, devices ─▶ model ─▶ view: header, list, reasons, pool, command line, keys
//
// The view is a pure function of the model and fits any size from 60×12 up.
package tui
