//! The memory of one VM: the region tree, the address spaces that show it, and the RAM blocks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qom::ObjectRef;

use crate::backend::BackendDefaults;
use crate::damage::{Change, Damage, Shown, redraw};
use crate::discard_policy::DiscardPolicy;
use crate::error::Result;
use crate::flatview::FlatView;
use crate::listener::{self, MemoryListener};
use crate::object::RegionObjects;
use crate::ram::{DirtyClients, RamBlock, RamList, RamSpec};
use crate::region::{Arena, RegionId};
use crate::render::{render, view_root};
use crate::space::AddressSpace;
use crate::text::{self, MtreeOptions};
use crate::transaction::Transaction;

/// Everything that is guarded by the topology lock.
#[derive(Default)]
pub(crate) struct Topology {
    pub(crate) arena: Arena,
    pub(crate) spaces: Vec<SpaceEntry>,
    /// Makes the object of a region, once the classes are registered.
    pub(crate) objects: Option<RegionObjects>,
    /// Who logs writes to all RAM.
    pub(crate) logging: DirtyClients,
}

/// An address space with what only the topology needs of it.
pub(crate) struct SpaceEntry {
    pub(crate) space: Arc<AddressSpace>,
    /// Whether it never had a view.
    fresh: bool,
    /// Regions that decide which view it has, sorted.
    decided_by: Vec<RegionId>,
    /// By ascending priority.
    pub(crate) listeners: Vec<Arc<dyn MemoryListener>>,
}

/// Who hears how far the preallocation of a backend is. Called by any thread.
pub trait PreallocObserver: Send + Sync {
    /// So many bytes of the present backend are there.
    fn progress(&self, done: u64, total: u64);

    /// The preallocation that was told of last has ended, well or not.
    fn ended(&self);
}

/// The memory of one VM.
#[derive(Default)]
pub struct Memory {
    topology: Mutex<Topology>,
    pub(crate) ram: RamList,
    backend_defaults: Mutex<BackendDefaults>,
    prealloc_observer: Mutex<Option<Arc<dyn PreallocObserver>>>,
    discard_policy: Arc<DiscardPolicy>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    /// No regions, no address spaces, no RAM.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes the topology lock and starts a batch of changes, committed when the guard is dropped. One thread must not
    /// hold two.
    pub fn transaction(&self) -> Transaction<'_> {
        Transaction::new(self.topology())
    }

    /// Says which object (`/machine/unattached`) has the regions without owner as children, those that exist already
    /// included. Needs [`crate::register`] to have run.
    pub fn set_unattached(&self, container: ObjectRef) {
        self.topology().set_unattached(container);
    }

    /// Who needs memory to be given back, and who cannot live with it.
    pub fn discard_policy(&self) -> &Arc<DiscardPolicy> {
        &self.discard_policy
    }

    /// What memory backends created from now on start with.
    pub fn set_backend_defaults(&self, defaults: BackendDefaults) {
        *self.backend_defaults.lock().unwrap_or_else(PoisonError::into_inner) = defaults;
    }

    pub(crate) fn backend_defaults(&self) -> BackendDefaults {
        *self.backend_defaults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `observer` hear of preallocations of backends from now on; nobody for `None`.
    pub fn set_prealloc_observer(&self, observer: Option<Arc<dyn PreallocObserver>>) {
        *self.prealloc_observer.lock().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    /// Allocates all pages of a backend's block.
    pub(crate) fn preallocate(&self, block: &RamBlock, threads: u32) -> Result<()> {
        let observer = self.prealloc_observer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(observer) = observer else { return block.prealloc(0, block.size(), threads) };
        observer.progress(0, block.size());
        let told = |done| observer.progress(done, block.size());
        let result = block.prealloc_told(0, block.size(), threads, &told);
        observer.ended();
        result
    }

    pub(crate) fn topology(&self) -> MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a RAM block. Its memory is not touched.
    ///
    /// # Errors
    /// [`crate::Error::MapAnonymous`], [`crate::Error::MapFile`], [`crate::Error::BadSize`].
    pub fn create_ram(&self, spec: RamSpec) -> Result<Arc<RamBlock>> {
        self.ram.create(spec)
    }

    /// The blocks that are alive, biggest first.
    pub fn ram_blocks(&self) -> Vec<Arc<RamBlock>> {
        self.ram.blocks()
    }

    /// Where the guest sees the beginning of a block, in the first address space that shows it. Not of sparse memory, of which parts
    /// may be shown.
    pub fn address_of(&self, block: &Arc<RamBlock>) -> Option<u64> {
        if block.discard_manager().is_some() {
            return None;
        }
        let topology = self.topology();
        topology.spaces.iter().find_map(|entry| {
            let view = entry.space.view();
            let shows =
                |range: &&crate::FlatRange| range.block().is_some_and(|other| Arc::ptr_eq(other, block));
            view.ranges().iter().find(shows).map(|range| range.addr.wrapping_sub(range.offset))
        })
    }

    /// The text of `info ramblock`.
    pub fn ramblock_text(&self) -> String {
        self.ram.text()
    }

    /// The text of `info mtree` with its options.
    pub fn mtree_text(&self, options: MtreeOptions) -> String {
        let (text, owners) = text::mtree(&self.topology(), options);
        drop(owners);
        text
    }

    /// Registers a listener for an address space and replays its view as one batch.
    pub fn add_listener(&self, space: &Arc<AddressSpace>, listener: Arc<dyn MemoryListener>) {
        let mut topology = self.topology();
        let logging = topology.logging;
        let Some(entry) = topology.spaces.iter_mut().find(|e| Arc::ptr_eq(&e.space, space)) else { return };
        let view = space.view();
        let only = std::slice::from_ref(&listener);
        listener.begin();
        if !logging.is_empty()
            && let Err(error) = listener.log_global_start()
        {
            tracing::warn!(%error, "dirty log of a new listener");
        }
        let nothing = FlatView::default();
        listener::notify(only, &nothing, &view, &Change::all(&nothing, &view));
        listener::notify_eventfds(only, &[], &view.ioeventfds);
        listener.commit();
        let at = entry.listeners.partition_point(|l| l.priority() <= listener.priority());
        entry.listeners.insert(at, listener);
    }

    /// Takes a listener out after telling it, in one batch, that everything is gone.
    pub fn remove_listener(&self, space: &Arc<AddressSpace>, listener: &Arc<dyn MemoryListener>) {
        let mut topology = self.topology();
        let Some(entry) = topology.spaces.iter_mut().find(|e| Arc::ptr_eq(&e.space, space)) else { return };
        let Some(at) = entry.listeners.iter().position(|l| Arc::ptr_eq(l, listener)) else { return };
        let listener = entry.listeners.remove(at);
        let view = space.view();
        listener.begin();
        let nothing = FlatView::default();
        let only = std::slice::from_ref(&listener);
        listener::notify(only, &view, &nothing, &Change::all(&view, &nothing));
        listener::notify_eventfds(only, &view.ioeventfds, &[]);
        listener.commit();
    }
}

impl Topology {
    /// Adds an address space; its view is rendered by the next commit.
    pub(crate) fn add_space(&mut self, space: Arc<AddressSpace>) {
        self.arena[space.root()].spaces += 1;
        self.spaces.push(SpaceEntry { space, fresh: true, decided_by: Vec::new(), listeners: Vec::new() });
    }

    pub(crate) fn remove_space(&mut self, space: &Arc<AddressSpace>) {
        if let Some(at) = self.spaces.iter().position(|e| Arc::ptr_eq(&e.space, space)) {
            let entry = self.spaces.remove(at);
            self.arena[entry.space.root()].spaces -= 1;
            let (old, nothing) = (entry.space.publish(Arc::default()), FlatView::default());
            entry.listeners.iter().for_each(|l| l.begin());
            listener::notify(&entry.listeners, &old, &nothing, &Change::all(&old, &nothing));
            listener::notify_eventfds(&entry.listeners, &old.ioeventfds, &[]);
            entry.listeners.iter().for_each(|l| l.commit());
        }
    }

    /// Brings the views that could show any of the damage up to date and tells their listeners.
    pub(crate) fn commit(&mut self, damage: &[Damage]) {
        let mut updates = self.updates(damage);
        // What looks as before is published (others may have it already), and no listener hears of it.
        updates.retain(|update| {
            let nothing = update.change.is_nothing(&update.old, &update.new);
            if nothing {
                self.spaces[update.space].space.publish(update.new.clone());
            }
            !nothing
        });
        let listeners = |u: &Update| &self.spaces[u.space].listeners;
        updates.iter().flat_map(listeners).for_each(|l| l.begin());
        for Update { space, old, new, change } in &updates {
            let entry = &self.spaces[*space];
            let view = trace::Id::of(&**new);
            trace::emit!(flatview_new, view, root_id(new));
            trace::emit!(pliant_view_changed, entry.space.name(), view, new.ranges().len());
            listener::notify(&entry.listeners, old, new, change);
            entry.space.publish(new.clone());
            if old.ioeventfds != new.ioeventfds {
                listener::notify_eventfds(&entry.listeners, &old.ioeventfds, &new.ioeventfds);
            }
        }
        updates.iter().flat_map(listeners).for_each(|l| l.commit());
    }

    /// New views for the address spaces that the damage could touch. Those with the same root share one.
    fn updates(&mut self, damage: &[Damage]) -> Vec<Update> {
        let roots = self.spaces.iter().filter_map(|entry| entry.space.view().root);
        let shown = Shown::new(&self.arena, roots, damage);
        let decides = |ids: &[RegionId]| damage.iter().any(|d| ids.binary_search(&d.region).is_ok());
        let mut views: HashMap<Option<RegionId>, Drawn> = HashMap::new();
        let mut affected = Vec::new();
        for (index, entry) in self.spaces.iter().enumerate() {
            let view = entry.space.view();
            // A root that moved is among those that decide.
            let hull = view.root.and_then(|root| shown.hull(root));
            if entry.fresh || decides(&entry.decided_by) || hull.is_some() {
                affected.push((index, view));
            } else {
                views.insert(view.root, Drawn { view, from: None });
            }
        }
        let mut updates = Vec::new();
        for (space, old) in affected {
            let mut decided_by = Vec::new();
            let root = view_root(&self.arena, self.spaces[space].space.root(), &mut decided_by);
            decided_by.sort_unstable();
            decided_by.dedup();
            let entry = &mut self.spaces[space];
            (entry.fresh, entry.decided_by) = (false, decided_by);
            let drawn =
                views.entry(root).or_insert_with(|| Drawn::new(&self.arena, root, &old, damage, &shown));
            if Arc::ptr_eq(&old, &drawn.view) {
                continue;
            }
            let change = match &drawn.from {
                Some((base, change)) if Arc::ptr_eq(base, &old) => change.clone(),
                _ => Change::all(&old, &drawn.view),
            };
            updates.push(Update { space, old, new: drawn.view.clone(), change });
        }
        updates
    }
}

/// How a trace names the region that a view was made from.
fn root_id(view: &FlatView) -> String {
    view.root.map_or_else(|| "nil".to_owned(), |root| root.to_string())
}

/// What happens to one address space in a commit.
struct Update {
    /// Its place in the list.
    space: usize,
    old: Arc<FlatView>,
    new: Arc<FlatView>,
    change: Change,
}

/// A view and, if it was made from another one, which and what differs.
struct Drawn {
    view: Arc<FlatView>,
    from: Option<(Arc<FlatView>, Change)>,
}

impl Drawn {
    fn new(
        arena: &Arena,
        root: Option<RegionId>,
        old: &Arc<FlatView>,
        damage: &[Damage],
        shown: &Shown,
    ) -> Self {
        let (Some(id), true) = (root, root == old.root) else {
            return Self { view: Arc::new(render(arena, root)), from: None };
        };
        if damage.iter().any(|d| d.moved && d.region == id) {
            return Self { view: Arc::new(render(arena, root)), from: None };
        }
        match shown.hull(id) {
            Some(hull) => {
                let (view, change) = redraw(arena, old, id, hull);
                Self { view: Arc::new(view), from: Some((old.clone(), change)) }
            }
            None => Self { view: old.clone(), from: None },
        }
    }
}
