package v1alpha1

import "testing"

func TestFingerprintsTellDevicesAndContentsApart(t *testing.T) {
	base := Identity{Serial: "S1", WWN: "W", Model: "M", SizeBytes: 100}
	for name, tc := range map[string]struct {
		edit              func(*Identity)
		hardware, content bool // whether that fingerprint must change
	}{
		"a new filesystem changes the content only": {func(i *Identity) { i.Filesystem = "ext4" }, false, true},
		"a new partition changes the content only":  {func(i *Identity) { i.Partitions = []Partition{{Number: 1}} }, false, true},
		"a superblock changes the content only":     {func(i *Identity) { i.Superblock = &SuperblockRef{ClusterID: "c", DiskID: "d"} }, false, true},
		"another serial is another device":          {func(i *Identity) { i.Serial = "S2" }, true, false},
		"another size is another device":            {func(i *Identity) { i.SizeBytes++ }, true, false},
		"values do not run into their neighbours":   {func(i *Identity) { i.Serial, i.WWN = "S1W", "" }, true, false},
		"another backing file is another device":    {func(i *Identity) { i.BackingFile = "/disks/1" }, true, false},
		"texts for people change nothing":           {func(i *Identity) { i.Size, i.DriveType = "100 B", DriveSSD }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			other := base
			tc.edit(&other)
			if changed := other.Fingerprint() != base.Fingerprint(); changed != tc.hardware {
				t.Errorf("fingerprint changed: %v, want %v", changed, tc.hardware)
			}
			if changed := other.ContentFingerprint() != base.ContentFingerprint(); changed != tc.content {
				t.Errorf("content fingerprint changed: %v, want %v", changed, tc.content)
			}
		})
	}
}

// Claims are stored in the cluster and compared by later versions: the hash of an identity must never change.
func TestFingerprintsAreStable(t *testing.T) {
	id := Identity{Serial: "S", WWN: "W", Model: "M", Vendor: "V", SizeBytes: 1, BackingFile: "B", PartitionUUID: "P",
		PartitionTable: "gpt", Partitions: []Partition{{Number: 1, SizeBytes: 2, UUID: "U", Filesystem: "xfs"}}, Filesystem: "F",
		FilesystemUUID: "FU", Superblock: &SuperblockRef{ClusterID: "C", DiskID: "D"}}
	if got, want := id.Fingerprint(), "h1:46ac2c8bcbc4555cfba275ab4d2c930c"; got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
	if got, want := id.ContentFingerprint(), "c1:f969a2c2fe2b5ddf78c396d36f68e258"; got != want {
		t.Errorf("content fingerprint %s, want %s", got, want)
	}
}
