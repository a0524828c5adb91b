package target

import (
	"fmt"

	"github.com/iomesh/iomesh/internal/scsi"
)

// CheckStatusTable goes through every kind of result.
func CheckStatusTable() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	seen := map[string]Kind{}
	for k := OK; k < kinds; k++ {
		status, sense := Result{Kind: k}.sense(OpRead)
		if (status == scsi.Good) != (k == OK) {
			return fmt.Errorf("kind %d has status %#02x", k, byte(status))
		}
		if (status == scsi.CheckCondition) == sense.OK() {
			return fmt.Errorf("kind %d: status %#02x with %v", k, byte(status), sense)
		}
		id := fmt.Sprint(status, sense)
		if other, twice := seen[id]; twice && k != Lost && other != Lost && k != Internal {
			return fmt.Errorf("kinds %d and %d cannot be told apart", other, k)
		}
		seen[id] = k
	}
	return nil
}

// Options with a rule broken on purpose.
func PlantEarlyReinstatement(o Options) Options { o.planted = plantEarlyReinstatement; return o }
func PlantEarlyAbort(o Options) Options         { o.planted = plantEarlyAbort; return o }
func PlantEarlyClose(o Options) Options         { o.planted = plantEarlyClose; return o }
