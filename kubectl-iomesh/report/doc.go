// Package report builds what `status`, `node list`, `volume list` and `check` print, from what could be read, as pure functions.
//
// A report never fails because one source is silent: what could not be read is listed with the reason, and the rest is shown. Problems are
// listed worst first, each with the next step. Who gathers the facts is package command.
package report
