// Package login is the login phase of iSCSI (RFC 7143 §6, §12, §13) for both sides: text keys, negotiation, CHAP, and the
// exchange itself. Accept serves storaged/target and storaged/redirect, Connect serves internal/iscsi/initiator.
//
//	initiator                                  target
//	  SecurityNegotiation: names, AuthMethod ─▶  Policy.Admit: where is it, is it granted?
//	                                         ◀─  moved (0101h, TargetAddress), refused, or AuthMethod
//	  CHAP_A ─▶ ◀─ CHAP_A,I,C   CHAP_N,R[,I,C] ─▶ ◀─ [CHAP_N,R]
//	  LoginOperationalNegotiation: parameters ◀─▶ parameters
//	                                         ◀─  transit to FullFeaturePhase, TSIH
//
// Both functions block and use the caller's deadlines on the connection. All input is bounded: a login request's text by
// TextMax, the number of exchanges by RoundsMax.
package login
