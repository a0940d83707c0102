//! What must hold between resources, and what follows from a change?
//!
//! A rule is a pure function of view, change and caller. It refuses, or returns further writes of the
//! same transaction; those are changes that are judged in their turn, up to [`LIMIT`]. Ids, times and
//! random MACs come in the change's [`Moment`].
//!
//! # Invariants
//! - All writes of a request commit together, or none.
//! - A claim is made only where none is: two holders of one thing cannot be.
//! - `quota/PROJECT/KIND` counts exactly the objects of that kind.

pub mod addresses;
pub mod blocks;
pub mod quotas;
#[cfg(test)]
pub(crate) mod tests;

use crate::{
    keys::{Bundles, Keyring},
    policy::Policies,
    refusal::Refusal,
    resource::{Claim, Object, Resource, Spec, Verb, index_prefix},
    resources::dns,
    store::{Read, Record, View},
    time::Seconds,
};
use net::Mac;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{cell::Cell, collections::BTreeSet, collections::VecDeque, fmt, net::IpAddr, sync::Arc};
use uuid::Uuid;

/// Objects that one request may change: a bulk create of a few hundred ports, or a network with all
/// that hangs on it.
pub const LIMIT: usize = 20_000;

/// What the controller knows besides the store, fixed at its start.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The pin of the hosts' CA, the middle part of a join token.
    pub ca_pin: String,
    /// What the underlay carries, if the operator said so.
    pub underlay_mtu: Option<u16>,
    /// The domain of networks that have none, with its dot; empty: there is none.
    pub dns_domain: String,
    /// Who is asked for names on networks whose subnets name nobody.
    pub dns_resolvers: Vec<IpAddr>,
    /// What secrets are sealed with; without one none can be kept.
    pub keyring: Option<Arc<Keyring>>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            ca_pin: String::new(),
            underlay_mtu: None,
            dns_domain: dns::DEFAULT_DOMAIN.to_owned(),
            dns_resolvers: Vec::new(),
            keyring: None,
        }
    }
}

/// The randomness of one request: the same again when the transaction runs again.
#[derive(Debug)]
pub struct Dice {
    seed: [u8; 32],
    rolled: Cell<u64>,
}

impl Dice {
    /// Dice that roll the same for the same seed.
    pub const fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            rolled: Cell::new(0),
        }
    }

    fn roll(&self) -> [u8; 32] {
        let rolled = self.rolled.get();
        self.rolled.set(rolled + 1);
        let mut digest = Sha256::new();
        digest.update(self.seed);
        digest.update(rolled.to_be_bytes());
        digest.finalize().into()
    }

    /// A fresh id.
    pub fn uuid(&self) -> Uuid {
        let rolled = self.roll();
        let Some(bytes) = rolled.first_chunk::<16>() else {
            unreachable!("a digest has 32 bytes");
        };
        uuid::Builder::from_random_bytes(*bytes).into_uuid()
    }

    /// A fresh MAC address with the prefix that OpenStack uses.
    pub fn mac(&self) -> Mac {
        let [a, b, c, ..] = self.roll();
        Mac::new([0xfa, 0x16, 0x3e, a, b, c])
    }

    /// The secret of this name: the same however often it is asked for.
    pub fn named(&self, name: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.seed);
        digest.update([0xff; 8]);
        digest.update(name);
        digest.finalize().into()
    }
}

/// When and with what luck a request happens.
#[derive(Debug)]
pub struct Moment {
    /// The time.
    pub now: Seconds,
    /// Ids and MACs.
    pub dice: Dice,
    /// What the controller knows.
    pub facts: Arc<Facts>,
    /// What the references of the request lead to.
    pub bundles: Arc<Bundles>,
}

/// What the moments of one request are made of: a backend may run a transaction again, and each run
/// needs fresh dice that roll the same.
#[derive(Debug, Clone)]
pub struct Occasion {
    /// The time.
    pub now: Seconds,
    /// What the dice roll by.
    pub seed: [u8; 32],
    /// What the controller knows.
    pub facts: Arc<Facts>,
    /// What the references of the request lead to, read before.
    pub bundles: Arc<Bundles>,
}

impl Occasion {
    /// The moment of one run.
    pub fn moment(&self) -> Moment {
        Moment {
            now: self.now,
            dice: Dice::new(self.seed),
            facts: Arc::clone(&self.facts),
            bundles: Arc::clone(&self.bundles),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user's id.
    pub user_id: String,
    /// The user's name, for the audit.
    pub user_name: String,
    /// The project that the token is for; empty without one.
    pub project_id: String,
    /// Role names.
    pub roles: Vec<String>,
    /// May do everything.
    pub admin: bool,
    /// Acts for another service (Nova).
    pub service: bool,
    /// May change what its project owns.
    pub member: bool,
    /// The domain that the token is for, instead of a project.
    pub domain: Option<String>,
    /// The policies that judge in place of what is built in, if any does.
    pub policies: Option<Arc<Policies>>,
}

impl Caller {
    /// The caller that rules act as when nobody asked.
    pub fn system() -> Self {
        Self {
            user_name: "system".to_owned(),
            admin: true,
            member: true,
            ..Self::default()
        }
    }

    /// Does the object belong to the caller's project, or may the caller see all?
    pub fn owns(&self, project_id: &str) -> bool {
        self.admin || (!project_id.is_empty() && self.project_id == project_id)
    }
}

/// Which attributes the request named.
pub type Given = BTreeSet<String>;

/// One change, before it is stored.
#[derive(Debug)]
pub struct Change<'a, T: ?Sized> {
    /// What is done.
    pub verb: Verb,
    /// The object that is there; `None` for a create.
    pub before: Option<&'a T>,
    /// The object that will be there; `None` for a delete.
    pub after: Option<&'a T>,
    /// The attributes that the caller named; `None` if a rule made this change.
    pub given: Option<&'a Given>,
    /// When and with what luck.
    pub moment: &'a Moment,
}

impl<T: ?Sized> Change<'_, T> {
    /// Did the caller name this attribute?
    pub fn names(&self, attribute: &str) -> bool {
        self.given.is_some_and(|given| given.contains(attribute))
    }

    /// Was it asked for by the caller, not by a rule?
    pub const fn is_asked(&self) -> bool {
        self.given.is_some()
    }

    /// The object that is there or will be.
    pub fn subject(&self) -> Option<&T> {
        self.after.or(self.before)
    }
}

impl<'a, T: ?Sized> Change<'a, T> {
    /// The object, if this makes it.
    pub fn made(&self) -> Option<&'a T> {
        self.after.filter(|_| self.verb == Verb::Create)
    }

    /// The object, if this deletes it.
    pub fn removed(&self) -> Option<&'a T> {
        self.before.filter(|_| self.verb == Verb::Delete)
    }
}

/// What a rule wants besides.
#[derive(Debug, Clone)]
pub enum Write {
    /// The object that is judged, completed.
    Amend(Arc<dyn Object>),
    /// Another object, made or changed; its own rules judge it.
    Put(Arc<dyn Object>),
    /// Another object's revision grows.
    Touch(&'static Spec, Uuid),
    /// Another object goes; its own rules judge that.
    Remove(&'static Spec, Uuid),
    /// An exclusive thing gets a holder; refused if it has one.
    Claim(String, Uuid),
    /// An exclusive thing is free again.
    Release(String),
    /// A record of the rules' own.
    Record(String, Arc<dyn Record>),
}

impl Write {
    /// [`Write::Amend`] of a typed object.
    pub fn amend<T: Resource>(object: T) -> Self {
        Self::Amend(Arc::new(object))
    }

    /// [`Write::Put`] of a typed object.
    pub fn put<T: Resource>(object: T) -> Self {
        Self::Put(Arc::new(object))
    }
}

/// What a rule says.
pub type Judged = Result<Vec<Write>, Refusal>;

/// A rule of a resource.
pub type Rule<T> = fn(&View, &Change<'_, T>, &Caller) -> Judged;

/// What an action is asked to do, and with which object.
#[derive(Debug)]
pub struct Deed<'a, T: ?Sized> {
    /// The object.
    pub object: &'a T,
    /// The arguments, as the table admits them.
    pub arguments: &'a Map<String, Value>,
    /// When and with what luck.
    pub moment: &'a Moment,
}

/// What an action comes to.
#[derive(Debug, Clone)]
pub struct Acted<T> {
    /// The object as it is then; its rules judge it as in an update.
    pub object: T,
    /// What is written besides.
    pub writes: Vec<Write>,
    /// The fields of the answer, where that is not the object.
    pub reply: Map<String, Value>,
}

/// What an action of a resource does: as pure as a rule.
pub type Act<T> = fn(&View, &Deed<'_, T>, &Caller) -> Result<Acted<T>, Refusal>;

/// What a request asks for.
#[derive(Debug, Clone)]
pub enum Order {
    /// Make it.
    Create(Arc<dyn Object>, Given),
    /// Replace the first by the second.
    Update(Arc<dyn Object>, Arc<dyn Object>, Given),
    /// Delete it, in the way that the request says.
    Delete(Arc<dyn Object>, Given),
}

/// What became of the object that the request was about.
#[derive(Debug)]
pub struct Enacted {
    /// The object as stored; `None` after a delete.
    pub object: Option<Arc<dyn Object>>,
    /// What the answer shows once.
    pub once: Option<(&'static str, Value)>,
}

struct Step {
    spec: &'static Spec,
    verb: Verb,
    before: Option<Arc<dyn Object>>,
    after: Option<Arc<dyn Object>>,
    given: Option<Given>,
    /// What is written besides, whatever the rules want.
    besides: Vec<Write>,
}

/// Enacts an order and all that follows from it, to a fixed point.
///
/// # Errors
/// The first refusal of any rule on the way; the view is then to be thrown away.
pub fn enact(
    view: &mut View,
    order: Order,
    caller: &Caller,
    moment: &Moment,
) -> Result<Enacted, Refusal> {
    begin(view, first_step(order), caller, moment)
}

/// Does an action with an object, and all that follows from it; what it answers besides.
///
/// # Errors
/// The first refusal of the action or of any rule on the way; the view is then to be thrown away.
pub fn act(
    view: &mut View,
    object: Arc<dyn Object>,
    action: &str,
    arguments: &Map<String, Value>,
    caller: &Caller,
    moment: &Moment,
) -> Result<(Enacted, Map<String, Value>), Refusal> {
    let spec = object.spec();
    let deed = Deed {
        object: object.as_ref(),
        arguments,
        moment,
    };
    let acted = spec.ops.act(action, view, &deed, caller)?;
    let step = Step {
        spec,
        verb: Verb::Update,
        before: Some(object),
        after: Some(acted.object),
        given: Some(arguments.keys().cloned().collect()),
        besides: acted.writes,
    };
    Ok((begin(view, step, caller, moment)?, acted.reply))
}

fn begin(
    view: &mut View,
    step: Step,
    caller: &Caller,
    moment: &Moment,
) -> Result<Enacted, Refusal> {
    match settle(view, VecDeque::from([step]), caller, moment)? {
        Some(enacted) => Ok(enacted),
        None => unreachable!("the first step is always taken"),
    }
}

/// Makes the project's default security group if it has none.
///
/// # Errors
/// When the project's quota is too small for it.
pub fn ensure_default_group(
    view: &mut View,
    project: &str,
    moment: &Moment,
) -> Result<(), Refusal> {
    let (_, writes) = crate::resources::security_group::default_of(view, project, &moment.dice);
    follow_up(view, writes, moment)
}

/// Makes the project's default firewall group, with its policies and rules, if it has none.
///
/// # Errors
/// When one of the project's quotas is too small for them.
pub fn ensure_default_firewall(
    view: &mut View,
    project: &str,
    moment: &Moment,
) -> Result<(), Refusal> {
    let writes = crate::resources::fwaas::default_of(view, project, &moment.dice);
    follow_up(view, writes, moment)
}

/// Writes what nobody asked for, and all that follows from it.
///
/// # Errors
/// The first refusal of any rule on the way; the view is then to be thrown away.
pub fn follow_up(view: &mut View, writes: Vec<Write>, moment: &Moment) -> Result<(), Refusal> {
    let mut queue = VecDeque::new();
    for write in writes {
        queue.extend(follow(view, write)?);
    }
    settle(view, queue, &Caller::system(), moment)?;
    Ok(())
}

/// Takes steps until none is left; what the first one came to.
fn settle(
    view: &mut View,
    mut queue: VecDeque<Step>,
    caller: &Caller,
    moment: &Moment,
) -> Result<Option<Enacted>, Refusal> {
    let mut first = None;
    let mut steps = 0_usize;
    while let Some(step) = queue.pop_front() {
        steps += 1;
        if steps > LIMIT {
            return Err(Refusal::TooLarge { limit: LIMIT });
        }
        let (enacted, writes) = take(view, &step, caller, moment)?;
        first.get_or_insert(enacted);
        for write in writes {
            if let Some(step) = follow(view, write)? {
                queue.push_back(step);
            }
        }
    }
    Ok(first)
}

fn first_step(order: Order) -> Step {
    match order {
        Order::Create(after, given) => Step {
            spec: after.spec(),
            verb: Verb::Create,
            before: None,
            after: Some(after),
            given: Some(given),
            besides: Vec::new(),
        },
        Order::Update(before, after, given) => Step {
            spec: after.spec(),
            verb: Verb::Update,
            before: Some(before),
            after: Some(after),
            given: Some(given),
            besides: Vec::new(),
        },
        Order::Delete(before, given) => Step {
            spec: before.spec(),
            verb: Verb::Delete,
            before: Some(before),
            after: None,
            given: Some(given),
            besides: Vec::new(),
        },
    }
}

fn take(
    view: &mut View,
    step: &Step,
    caller: &Caller,
    moment: &Moment,
) -> Result<(Enacted, Vec<Write>), Refusal> {
    let change = Change {
        verb: step.verb,
        before: step.before.as_deref(),
        after: step.after.as_deref(),
        given: step.given.as_ref(),
        moment,
    };
    let (after, mut writes) = step.spec.ops.judge(view, &change, caller)?;
    writes.extend(step.besides.iter().cloned());
    quotas::count(
        view,
        step.spec,
        step.verb,
        step.before.as_deref().or(after.as_deref()),
        step.given.is_some(),
    )?;
    let object = persist(view, step.before.as_ref(), after, moment.now);
    let settled = Change {
        verb: step.verb,
        before: step.before.as_deref(),
        after: object.as_deref(),
        given: step.given.as_ref(),
        moment,
    };
    let once = if settled.is_asked() {
        step.spec.ops.once(&settled)
    } else {
        None
    };
    Ok((Enacted { object, once }, writes))
}

/// Writes, replaces or deletes the object and its index entries.
fn persist(
    view: &mut View,
    before: Option<&Arc<dyn Object>>,
    after: Option<Arc<dyn Object>>,
    now: Seconds,
) -> Option<Arc<dyn Object>> {
    let after = match (before, after) {
        (Some(before), Some(after)) if before.same(after.as_ref()) => return Some(after),
        (Some(before), Some(after)) => {
            let meta = before.meta();
            Some(after.stamped(meta.revision_number + 1, meta.created_at, now))
        }
        (None, Some(after)) => Some(after.stamped(1, now, now)),
        (_, None) => None,
    };
    let keys = |object: &Arc<dyn Object>| -> BTreeSet<String> { index_keys(view, object.as_ref()) };
    let old = before.map(keys).unwrap_or_default();
    let new = after.as_ref().map(keys).unwrap_or_default();
    for key in old.difference(&new) {
        view.delete(key);
    }
    for key in new.difference(&old) {
        view.put(key.as_str(), Arc::new(()));
    }
    match (&after, before) {
        (Some(after), _) => {
            let key = after.spec().key(after.meta().id);
            view.put(key, Arc::clone(after).into_record());
        }
        (None, Some(before)) => {
            let (spec, id) = (before.spec(), before.meta().id);
            view.delete(&spec.key(id));
            // Whether it was shared may be another object's to say, which has gone before it.
            view.delete(&format!(
                "{}{id}",
                index_prefix(spec.storage, "shared", "true")
            ));
        }
        (None, None) => {}
    }
    after
}

fn index_keys(view: &View, object: &dyn Object) -> BTreeSet<String> {
    let (storage, meta) = (object.spec().storage, object.meta());
    let mut keys: BTreeSet<String> = object
        .index()
        .into_iter()
        .map(|(field, value)| format!("{}{}", index_prefix(storage, field, value), meta.id))
        .collect();
    keys.insert(format!(
        "{}{}",
        index_prefix(storage, "project_id", &meta.project_id),
        meta.id
    ));
    if object.shared(view) {
        keys.insert(format!(
            "{}{}",
            index_prefix(storage, "shared", "true"),
            meta.id
        ));
    }
    keys
}

/// Does the simple writes; those that are changes of objects come back as steps.
fn follow(view: &mut View, write: Write) -> Result<Option<Step>, Refusal> {
    match write {
        Write::Amend(_) => unreachable!("taken out where the rule was called"),
        Write::Put(object) => {
            let spec = object.spec();
            let before = stored(view, spec, object.meta().id);
            let verb = if before.is_some() {
                Verb::Update
            } else {
                Verb::Create
            };
            Ok(Some(Step {
                spec,
                verb,
                before,
                after: Some(object),
                given: None,
                besides: Vec::new(),
            }))
        }
        Write::Remove(spec, id) => Ok(stored(view, spec, id).map(|before| Step {
            spec,
            verb: Verb::Delete,
            before: Some(before),
            after: None,
            given: None,
            besides: Vec::new(),
        })),
        Write::Touch(spec, id) => {
            if let Some(object) = stored(view, spec, id) {
                touch(view, object.as_ref());
            }
            Ok(None)
        }
        Write::Claim(key, holder) => {
            if view
                .get::<Claim>(&key)
                .is_some_and(|claim| claim.holder != holder)
            {
                return Err(Refusal::conflict("Conflict", format!("{key} is taken")));
            }
            view.put(key, Arc::new(Claim { holder }));
            Ok(None)
        }
        Write::Release(key) => {
            view.delete(&key);
            Ok(None)
        }
        Write::Record(key, record) => {
            view.put(key, record);
            Ok(None)
        }
    }
}

/// Another revision of the same object, as visible as it is now.
fn touch(view: &mut View, object: &dyn Object) {
    let (spec, meta) = (object.spec(), object.meta());
    let touched = object.stamped(meta.revision_number + 1, meta.created_at, meta.updated_at);
    view.put(spec.key(meta.id), touched.into_record());
    let shared = format!(
        "{}{}",
        index_prefix(spec.storage, "shared", "true"),
        meta.id
    );
    if object.shared(view) {
        view.put(shared, Arc::new(()));
    } else {
        view.delete(&shared);
    }
}

/// May the caller use the object: its own, or one that is shared with it?
pub fn usable(read: &impl Read, object: &dyn Object, caller: &Caller) -> bool {
    caller.owns(&object.meta().project_id) || object.shared_with(read, &caller.project_id)
}

/// The stored object of this table and id.
pub fn stored(read: &impl Read, spec: &Spec, id: Uuid) -> Option<Arc<dyn Object>> {
    spec.ops.object(read.entry(&spec.key(id))?)
}

/// `{thing}` joined by commas, for messages.
pub(crate) fn join(things: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let texts: Vec<String> = things.into_iter().map(|thing| thing.to_string()).collect();
    texts.join(",")
}
