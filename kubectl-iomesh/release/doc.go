// Package release installs, upgrades and removes the Helm release of the chart that is embedded in the plugin.
//
// It is an ordinary release: `helm ls`, `helm get values`, `helm upgrade` and `helm uninstall` work on it, and a release made by helm,
// Argo CD or Flux from the same chart works with the plugin.
package release
