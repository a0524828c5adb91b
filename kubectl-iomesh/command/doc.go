// Package command is the plugin's commands: each reads flags, gathers facts through package link, builds a value and prints it.
//
// Grammar: life-cycle verbs at the top (install, upgrade, uninstall, status, check), then noun and verb (disk map, node list). Data goes to
// standard output, everything else to standard error. Nothing prompts without a terminal. Exit codes: see package fault.
package command
