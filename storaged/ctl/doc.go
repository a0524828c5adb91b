// Package ctl is `storaged ctl`: the control interface in readable form, for development and for the night when Kubernetes
// is down. It talks to the meta members only; any of them will do.
//
// Every command builds its value first and renders it second: a table for people, or JSON, which is stable, carries apiVersion and
// kind, and gives sizes as integers of bytes. Data goes to standard output, everything else to standard error. Errors say what
// failed, on which object, and what to try; their exit codes are 1 failed, 2 wrong usage, 3 ran well and found problems
// (status), 4 timed out.
package ctl
