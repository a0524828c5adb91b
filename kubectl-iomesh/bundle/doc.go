// Package bundle collects what somebody else needs to find out what is wrong with a cluster, into one archive.
//
// By allow-list: only the kinds, logs and answers named in this package are read; Secrets and ConfigMaps never, environment variables and
// annotations of pods lose their values. Bounded: each file, the archive and the time have limits, and what did not fit or could not be read is listed
// with the reason in index.json, the first file of the archive.
package bundle
