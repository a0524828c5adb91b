// Package smart asks disks how they are: S.M.A.R.T. of ATA disks, the health log of NVMe disks, the log pages of SCSI disks.
//
//	NVMe  Get Log Page 02h, SMART / Health Information     NVM Express Base Specification 2.0, 5.16.1.3
//	ATA   SMART READ DATA, SMART RETURN STATUS             ACS-3 7.48 and 7.53, through ATA PASS-THROUGH (16), SAT-4 12.2
//	      Device Statistics log 04h, page 07h              ACS-3 A.5
//	SCSI  LOG SENSE pages 11h, 2Fh                         SBC-4 6.4, SPC-5 7.3
//
// The requests are the kernel's pass-through ioctls; nothing is changed on the disk and no self-test is begun. A disk that hangs keeps the
// one goroutine that asks it; it is not asked again before that has come back, and nobody else waits.
//
// # What is concluded
//
// A disk is failing if it says so itself: its status is "threshold exceeded" (ATA), its critical warning has a bit other than that of the
// temperature (NVMe), or its informational exception is a failure prediction (SCSI, additional sense code 5Dh). Its last self-test counts
// as failed if it ended with an error. The life that is left is 100 minus the standard's percentage used; for SATA disks that do not have
// it, the normalised value of the attribute in which their makers put it.
//
// Disks behind RAID controllers and virtual disks usually answer none of this; nothing is concluded then.
package smart
