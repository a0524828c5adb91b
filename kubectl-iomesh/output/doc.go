// Package output renders a value as -o asks: table, wide, json, yaml, name or jsonpath.
//
// Commands build a value first, with apiVersion and kind, and render it last. JSON is the stable interface: bytes are integers, times RFC
// 3339. Data goes to standard output; everything else is the caller's business on standard error.
package output
