//! The steps that a crash can separate from what follows.

/// Defines the steps with their names, and the list of all of them.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// A call that changes something which outlives the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            /// Every step: what a test that explores all of them goes through.
            pub const ALL: &'static [Step] = &[$(Step::$step,)*];

            /// Its name, as in [`VARIABLE`](super::VARIABLE).
            pub const fn name(self) -> &'static str {
                match self {
                    $(Step::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    // --- the root ---
    /// The word that says which backend holds the root's data.
    RecordBackend = "root.backend",
    /// The number in the names of the root's devices.
    Identity = "root.identity",

    // --- the store ---
    /// A migration of the schema, the first one included.
    StoreMigrate = "store.migrate",
    /// The next range of snapshot ids is reserved.
    StoreIds = "store.ids",
    /// A new snapshot with its volume.
    StorePrepare = "store.prepare",
    /// A view that looks at its parent's volume.
    StoreView = "store.view",
    /// The key goes, the name comes.
    StoreCommit = "store.commit",
    /// The key goes, the volume becomes a tombstone.
    StoreRemove = "store.remove",
    /// Labels are changed.
    StoreLabels = "store.labels",
    /// A tombstone goes: its volume is destroyed.
    StoreForget = "store.forget",
    /// Volumes are marked as lost, or as live again.
    StoreLost = "store.lost",
    /// An active snapshot's volume is to be larger.
    StoreResize = "store.resize",
    /// A lease is made or changed, or what it holds.
    StoreLease = "store.lease",
    /// A namespace is made, labelled or deleted.
    StoreNamespace = "store.namespace",
    /// The keys go that a collection found unreachable.
    StoreCollect = "store.collect",
    /// References to layers, images and read-write layers are changed.
    StoreLayer = "store.layer",
    /// What no record names is to be kept: the store can't be trusted.
    StoreKeep = "store.keep",
    /// Rows are mended, or what was kept is given up.
    StoreRepair = "store.repair",

    // --- the pool's record, in the store ---
    /// A pool that is new to the store gets its record.
    LedgerAdopt = "ledger.adopt",
    /// The record says where the pool's transaction id is to be moved.
    LedgerMove = "ledger.move",
    /// The record says that the pool's transaction id has arrived.
    LedgerSettle = "ledger.settle",
    /// A template, an id set aside or one no longer set aside: the record changes otherwise.
    LedgerChange = "ledger.change",

    // --- the pool's files ---
    /// A file is made or grown.
    PoolFile = "pool-file.extend",
    /// A file is attached to a loop device.
    LoopAttach = "loop.attach",
    /// A loop device takes over its file's size.
    LoopResize = "loop.resize",
    /// A loop device lets its file go.
    LoopDetach = "loop.detach",
    /// The superblock forgets a metadata snapshot that was never written.
    MendSuperblock = "metadata.mend",
    /// Metadata that the kernel has marked is checked, and the mark cleared.
    CheckMetadata = "metadata.check",

    // --- device-mapper ---
    /// A device is created, without a table.
    DmCreate = "dm.create",
    /// A new device's table is loaded.
    DmLoad = "dm.load",
    /// A device is resumed: its table is live.
    DmResume = "dm.resume",
    /// A live device's next table is loaded.
    DmReload = "dm.reload",
    /// A device in use is suspended, its filesystem frozen: a commit makes a copy of it.
    DmSuspend = "dm.suspend",
    /// A live device takes on its next table.
    DmSwap = "dm.swap",
    /// A device is removed.
    DmRemove = "dm.remove",

    // --- messages to the pool ---
    /// An empty thin device.
    CreateThin = "pool.create_thin",
    /// A thin device with another one's blocks.
    CreateSnap = "pool.create_snap",
    /// A thin device is deleted.
    Delete = "pool.delete",
    /// The witness that pool and store belong together is moved on.
    SetTransactionId = "pool.set_transaction_id",
    /// A metadata snapshot is reserved.
    ReserveSnapshot = "pool.reserve_metadata_snap",
    /// A metadata snapshot is released.
    ReleaseSnapshot = "pool.release_metadata_snap",

    // --- a volume's filesystem ---
    /// mkfs on a template.
    Mkfs = "template.mkfs",
    /// A thin device that is there to be deleted gets its block.
    Ballast = "ballast.fill",
    /// What the pool's data device is known by is written for the first time.
    WitnessMake = "witness.make",
    /// It is written anew, as each start does.
    WitnessRenew = "witness.renew",
    /// A template's root directory becomes an empty snapshot's.
    EmptyRoot = "template.empty_root",
    /// A filesystem is mounted, detached.
    Mount = "volume.mount",
    /// A filesystem grows to its device's size.
    GrowFilesystem = "volume.grow",
    /// Everything is written back before a seal.
    SealFlush = "volume.seal_flush",
    /// A sealed filesystem turns read-only.
    SealReadOnly = "volume.seal_read_only",
    /// The detached mount is let go.
    Unmount = "volume.unmount",
    /// A removed volume's blocks are discarded.
    Discard = "volume.discard",

    // --- plain directories ---
    /// The directory in which a volume is being made.
    NativeMake = "native.make",
    /// The origin's tree is copied.
    NativeCopy = "native.copy",
    /// A complete tree is renamed into place.
    NativePublish = "native.publish",
    /// A new volume is made durable.
    NativeSync = "native.sync",
    /// A sealed tree is written back.
    NativeFlush = "native.flush",
    /// A removed volume is renamed into the trash.
    NativeTrash = "native.trash",
    /// What is in the trash, or half made, is removed.
    NativeRemove = "native.remove",

    // --- the kernel's hold on a file that it reads and writes itself ---
    /// The kernel is told of a file.
    HoldFile = "hold.take",
    /// The kernel is told to let a file go.
    LetFileGo = "hold.give_back",
    /// The kernel is told that a file is open.
    TellOpened = "open.answer",
}
