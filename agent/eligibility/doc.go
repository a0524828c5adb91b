// Package eligibility says which devices may be given to a cluster, and everything that speaks against the others.
//
// Evaluate never stops at the first objection: who wants to free a disk must see all of them at once. The order is the order of
// importance: what would destroy the machine or somebody's data comes before what is merely unsuitable. Codes are stable and part of
// the interface (BlockDevice status.reasons[].code); messages name the evidence.
//
// Pure functions over a scan.
package eligibility
