package store

// plantedBug is a deliberate bug. Each is caught by the package's ordinary tests, which TestPlantedBugsAreCaught runs with the
// bug switched on.
type plantedBug uint8

const (
	bugNone          plantedBug = iota
	bugAckEarly                 // the journal write is not flushed before the acknowledgement
	bugBadIsTail                // a damaged journal record is taken for the torn tail
	bugNoSeed                   // checksums do not depend on extent and block
	bugStaleWrite               // a late write with an older stamp wins
	bugRootFirst                // the checkpoint root is written before what it points to is flushed
	bugReuseEarly               // space freed by a checkpoint is reused before the checkpoint is durable
	bugForgetFence              // fences are kept in memory only
	bugAckLargeEarly            // a large write is acknowledged before its data is durable
	bugTornUnits                // the last batch is believed without a look at the data of its large writes
)
