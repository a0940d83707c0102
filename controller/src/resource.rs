//! What is a resource?
//!
//! One table ([`Spec`]) and one typed struct ([`Resource`]). From the table come routes, body checks,
//! defaults, filters, sort keys, policy names and the document; from the struct the domain. What a
//! resource needs beyond that are rules (`rules/`), never a handler.
//!
//! # Invariants
//! - The struct's JSON has the names of the table; a field that the table does not list is never shown.
//! - Absent, `null` and default are three things ([`Absent`], [`Field::nullable`]).

use crate::{
    api::Scene,
    refusal::Refusal,
    rules::{Act, Acted, Caller, Change, Deed, Rule, Write},
    store::{Read, Record, View},
    time::Seconds,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{any::Any, fmt, marker::PhantomData, net::IpAddr, sync::Arc};
use uuid::Uuid;

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A UUID.
    Uuid,
    /// The UUID of such an object, by its title: text that is none names one that is not there.
    IdOf(&'static str),
    /// Text of at most this many characters.
    Text(usize),
    /// A boolean; `"true"`, `"False"`, `0` and `1` are taken as well.
    Bool,
    /// An integer in this range; decimal text is taken as well.
    Int(i64, i64),
    /// A MAC address.
    Mac,
    /// An IP address.
    Address,
    /// An address block; host bits are cut off.
    Cidr,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these numbers; decimal text is taken as well.
    OneOfNumbers(&'static [i64]),
    /// A list of UUIDs without repetition.
    Uuids,
    /// A list of words without repetition (tags).
    Words,
    /// An object or list whose shape this function checks and normalises.
    Shape(fn(&Value) -> Result<Value, String>),
}

/// What a field is when a create does not name it.
#[derive(Debug, Clone, Copy)]
pub enum Absent {
    /// The request is refused.
    Required,
    /// `null`.
    Null,
    /// This text.
    Text(&'static str),
    /// This boolean.
    Bool(bool),
    /// This number.
    Int(i64),
    /// An empty list.
    List,
    /// An empty object.
    Object,
    /// A rule decides.
    Computed,
}

/// The boolean that a JSON value or a query's text means.
pub fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Who may do something with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Whoever may do it with the object.
    Anyone,
    /// An admin.
    Admin,
    /// A service or an admin.
    AdminOrService,
    /// A service alone.
    Service,
    /// Nobody: a read-only field.
    Nobody,
}

/// How an answer has a field, where that is not as it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// As it is taken.
    AsTaken,
    /// So, or null where there is none.
    OrNull,
    /// As text.
    Text,
    /// An object.
    Object,
    /// An object, or null where there is none.
    ObjectOrNull,
}

/// One field of a resource.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one column of the table"
)]
pub struct Field {
    /// The name in the API.
    pub name: &'static str,
    /// What a value may be.
    pub kind: Kind,
    /// What it means.
    pub doc: &'static str,
    /// Who may name it in a create.
    pub create: Policy,
    /// Who may name it in an update.
    pub update: Policy,
    /// Who sees it.
    pub read: Policy,
    /// What it is when a create leaves it out.
    pub absent: Absent,
    /// May it be `null`?
    pub nullable: bool,
    /// Can lists be filtered by it?
    pub filter: bool,
    /// Is it computed for each answer?
    pub derived: bool,
    /// Is it left out of an answer where there is none?
    pub optional: bool,
    /// How answers have it.
    pub shown: Shown,
}

/// A read-only field; builders make it more.
pub const fn field(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        doc,
        create: Policy::Nobody,
        update: Policy::Nobody,
        read: Policy::Anyone,
        absent: Absent::Computed,
        nullable: false,
        filter: true,
        derived: false,
        optional: false,
        shown: Shown::AsTaken,
    }
}

impl Field {
    /// May be named in a create and an update.
    #[must_use]
    pub const fn writable(mut self, absent: Absent) -> Self {
        self.create = Policy::Anyone;
        self.update = Policy::Anyone;
        self.absent = absent;
        self
    }

    /// May be named in a create only.
    #[must_use]
    pub const fn create_only(mut self, absent: Absent) -> Self {
        self.create = Policy::Anyone;
        self.absent = absent;
        self
    }

    /// May be named in an update only.
    #[must_use]
    pub const fn update_only(mut self, absent: Absent) -> Self {
        self.update = Policy::Anyone;
        self.absent = absent;
        self
    }

    /// May be `null`.
    #[must_use]
    pub const fn or_null(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// Only these may name it, where it could be named.
    #[must_use]
    pub const fn set_by(mut self, policy: Policy) -> Self {
        if !matches!(self.create, Policy::Nobody) {
            self.create = policy;
        }
        self.update_by(policy)
    }

    /// Only these may name it in an update, where it could be named.
    #[must_use]
    pub const fn update_by(mut self, policy: Policy) -> Self {
        if !matches!(self.update, Policy::Nobody) {
            self.update = policy;
        }
        self
    }

    /// Only these see it.
    #[must_use]
    pub const fn read_by(mut self, policy: Policy) -> Self {
        self.read = policy;
        self
    }

    /// Computed for each answer by [`Resource::derive`].
    #[must_use]
    pub const fn computed(mut self) -> Self {
        self.derived = true;
        self
    }

    /// Left out of an answer where there is none.
    #[must_use]
    pub const fn if_any(mut self) -> Self {
        self.optional = true;
        self
    }

    /// In another form in answers than in requests.
    #[must_use]
    pub const fn shown(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }

    /// Never a filter.
    #[must_use]
    pub const fn unfiltered(mut self) -> Self {
        self.filter = false;
        self
    }
}

/// What may be done with a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// POST on the collection.
    Create,
    /// GET on the object or the collection.
    Read,
    /// PUT on the object.
    Update,
    /// DELETE on the object.
    Delete,
}

impl Verb {
    /// The word in policy names and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "get",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// What an action's answer shows.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    /// The object, under its singular name.
    Object,
    /// The object, bare.
    Bare,
    /// These fields, bare.
    Fields(&'static [Field]),
}

/// Does an action change its object?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A PUT.
    Change,
    /// A GET; its answer is the object's own fields.
    Look,
}

/// What can be done with an object besides the five verbs: a PUT or GET on a path below it.
#[derive(Debug, Clone, Copy)]
pub struct Action {
    /// The last part of the path, and the verb in audit and metrics.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// The name of its policy.
    pub rule: &'static str,
    /// Who may do it at all.
    pub policy: Policy,
    /// Does it change the object?
    pub how: How,
    /// Are the arguments under the singular name, as in an update? Otherwise they are the body, which may be left out.
    pub wrapped: bool,
    /// The arguments; who may name them and what they are otherwise is as in a create.
    pub arguments: &'static [Field],
    /// What the answer shows.
    pub reply: Reply,
    /// The status of the answer.
    pub success: u16,
}

impl Action {
    /// The argument with this name.
    pub fn argument(&self, name: &str) -> Option<&'static Field> {
        self.arguments.iter().find(|field| field.name == name)
    }
}

/// A kind of things that an object is made of and that have ids of their own: a collection on a path below the object. They are made,
/// changed and deleted one by one, each time the object is.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The key of one in a body.
    pub singular: &'static str,
    /// The key of the list in a body, and the last part of the path.
    pub plural: &'static str,
    /// The word in messages and error types.
    pub title: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Who may change any.
    pub policy: Policy,
    /// The key of one in a body on the path that needs only its own id, and the paths beside the object's collection.
    pub alias: Option<(&'static str, &'static [&'static str])>,
    /// The fields that say which one is meant where many are given at once; none: they never are.
    pub batch: &'static [&'static str],
    /// Its fields besides the id.
    pub fields: &'static [Field],
}

impl Part {
    /// The field with this name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// The id of a part.
pub const PART_ID: Field = field("id", Kind::Uuid, "Identity.");

/// The table of one resource.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The key of one object in a body (`port`).
    pub singular: &'static str,
    /// The key of the list in a body (`ports`).
    pub plural: &'static str,
    /// The path of the collection below `/v2.0/`.
    pub path: &'static str,
    /// The first part of its keys in the store.
    pub storage: &'static str,
    /// The word in messages and error types (`Port`, so `PortNotFound`).
    pub title: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// What may be done.
    pub verbs: &'static [Verb],
    /// Who may do it at all.
    pub policy: Policy,
    /// How many a project may have by default, if counted: (quota name, limit).
    pub quota: Option<(&'static str, i64)>,
    /// Has it tags?
    pub tags: bool,
    /// Has it none of the common fields but those that it names itself?
    pub bare: bool,
    /// Its fields besides those that all have.
    pub fields: &'static [Field],
    /// What can be done with it besides.
    pub actions: &'static [Action],
    /// What it is made of.
    pub parts: &'static [Part],
    /// The typed half.
    pub ops: &'static dyn Operations,
}

/// All five verbs.
pub const ALL: &[Verb] = &[Verb::Create, Verb::Read, Verb::Update, Verb::Delete];

/// The fields that every resource has.
pub const COMMON: &[Field] = &[
    field("id", Kind::Uuid, "Identity."),
    field("name", Kind::Text(255), "Human label.").writable(Absent::Text("")),
    field("description", Kind::Text(255), "Human note.").writable(Absent::Text("")),
    field(
        "tenant_id",
        Kind::Text(255),
        "The project, by its old name.",
    )
    .computed(),
    field("project_id", Kind::Text(255), "The project that owns it.").create_only(Absent::Computed),
    field(
        "revision_number",
        Kind::Int(0, i64::MAX),
        "Grows with each change.",
    ),
    field("created_at", Kind::Text(32), "When it was made.").computed(),
    field("updated_at", Kind::Text(32), "When it was last changed.").computed(),
];

/// The field of resources with tags.
pub const TAGS: Field = field("tags", Kind::Words, "Words to find it by.")
    .create_only(Absent::List)
    .unfiltered();

/// The same of Octavia's, which are changed by updates too.
pub const OCTAVIAS_TAGS: Field = field(
    "tags",
    Kind::Shape(many_words),
    "Words to find it by, 500 at most.",
)
.writable(Absent::List)
.unfiltered();

fn many_words(value: &Value) -> Result<Value, String> {
    crate::api::words(value, 500)
}

impl Spec {
    /// All fields: the common ones, then its own.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        let tags = if self.path.starts_with("lbaas/") {
            &OCTAVIAS_TAGS
        } else {
            &TAGS
        };
        let tags = self.tags.then_some(tags);
        // A resource may redefine a common field (a rule of a group has no name of its own).
        let common = COMMON
            .iter()
            .filter(|field| !self.bare && !self.fields.iter().any(|own| own.name == field.name));
        common.chain(self.fields).chain(tags)
    }

    /// The field with this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().find(|field| field.name == name)
    }

    /// The key of an object.
    pub fn key(&self, id: Uuid) -> String {
        format!("{}/{id}", self.storage)
    }

    /// The policy name of a verb.
    pub fn rule(&self, verb: Verb) -> String {
        format!("{}_{}", verb.word(), self.singular)
    }

    /// May this be done at all?
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }
}

/// What every object has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Identity.
    pub id: Uuid,
    /// The project that owns it; empty for what belongs to none.
    #[serde(default)]
    pub project_id: String,
    /// Human label.
    #[serde(default)]
    pub name: String,
    /// Human note.
    #[serde(default)]
    pub description: String,
    /// When it was made.
    #[serde(default)]
    pub created_at: Seconds,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Seconds,
    /// Grows with each change.
    #[serde(default)]
    pub revision_number: u64,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl Meta {
    /// For an object that a rule makes.
    pub fn new(id: Uuid, project_id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            id,
            project_id: project_id.into(),
            name: name.into(),
            description: String::new(),
            created_at: Seconds::default(),
            updated_at: Seconds::default(),
            revision_number: 0,
            tags: Vec::new(),
        }
    }
}

/// The typed half of a resource.
pub trait Resource:
    Serialize + DeserializeOwned + Clone + PartialEq + fmt::Debug + Send + Sync + 'static
{
    /// Its table.
    const SPEC: &'static Spec;
    /// What must hold, in the order in which it is judged.
    const RULES: &'static [Rule<Self>];
    /// What the table's actions do, by name.
    const ACTS: &'static [(&'static str, Act<Self>)] = &[];

    /// What every object has.
    fn meta(&self) -> &Meta;

    /// The same, to change.
    fn meta_mut(&mut self) -> &mut Meta;

    /// Is it visible to every project?
    fn shared(&self, _read: &dyn Lookup) -> bool {
        false
    }

    /// May this project see and use it, though it is another's?
    fn shared_with(&self, read: &dyn Lookup, _project: &str) -> bool {
        self.shared(read)
    }

    /// The objects that others share with a project, besides those that every project sees.
    fn granted(_read: &dyn Lookup, _project: &str) -> Vec<Uuid> {
        Vec::new()
    }

    /// The value of a derived field in an answer.
    fn derive(&self, _field: &str, _scene: &Scene<'_>) -> Value {
        Value::Null
    }

    /// Brings checked fields to the form that the struct takes.
    ///
    /// # Errors
    /// When a value is wrong in a way that has a word of its own.
    fn intake(_fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        Ok(())
    }

    /// Is what a request asks for in this field kept apart from what the object has, under
    /// `asked:FIELD`, for [`Resource::intake`] to place?
    fn asked_apart(_field: &str) -> bool {
        false
    }

    /// What the bodies of one bulk create must have in common.
    ///
    /// # Errors
    /// When they have not.
    fn check_bulk(_bodies: &[Map<String, Value>]) -> Result<(), Refusal> {
        Ok(())
    }

    /// Its parts of this kind: each with its id and the fields of its table.
    fn parts(&self, _kind: &Part) -> Vec<Map<String, Value>> {
        Vec::new()
    }

    /// The same with this part as well, or in place of what has its id; without it, where no fields are given.
    ///
    /// # Errors
    /// When the fields are none of such a part.
    fn with_part(
        &self,
        kind: &Part,
        _id: Uuid,
        _fields: Option<Map<String, Value>>,
    ) -> Result<Self, Refusal> {
        unreachable!("no table declares {} of it", kind.plural)
    }

    /// What the answer to the create shows, once and never again.
    fn once(&self, _change: &Change<'_, Self>) -> Option<(&'static str, Value)> {
        None
    }

    /// Values by which it is found without a scan: (field, value).
    fn index(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// An object whatever its type.
pub trait Object: Record {
    /// Its table.
    fn spec(&self) -> &'static Spec;
    /// What every object has.
    fn meta(&self) -> &Meta;
    /// Is it visible to every project?
    fn shared(&self, read: &dyn Lookup) -> bool;
    /// May this project see and use it, though it is another's?
    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool;
    /// All of it as JSON, derived fields left out.
    fn to_map(&self) -> Map<String, Value>;
    /// The value of a derived field.
    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value;
    /// Values by which it is found.
    fn index(&self) -> Vec<(&'static str, String)>;
    /// See [`Resource::parts`].
    fn parts(&self, kind: &Part) -> Vec<Map<String, Value>>;
    /// See [`Resource::with_part`].
    ///
    /// # Errors
    /// When the fields are none of such a part.
    fn with_part(
        &self,
        kind: &Part,
        id: Uuid,
        fields: Option<Map<String, Value>>,
    ) -> Result<Arc<dyn Object>, Refusal>;
    /// Is it the same but for revision and time?
    fn same(&self, other: &dyn Object) -> bool;
    /// A copy with these revision and times.
    fn stamped(&self, revision: u64, created_at: Seconds, updated_at: Seconds) -> Arc<dyn Object>;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
    /// As what the store keeps.
    fn into_record(self: Arc<Self>) -> Arc<dyn Record>;
}

impl<T: Resource> Object for T {
    fn spec(&self) -> &'static Spec {
        T::SPEC
    }

    fn meta(&self) -> &Meta {
        Resource::meta(self)
    }

    fn shared(&self, read: &dyn Lookup) -> bool {
        Resource::shared(self, read)
    }

    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        Resource::shared_with(self, read, project)
    }

    fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            Ok(_) | Err(_) => unreachable!("a resource is a struct with text keys"),
        }
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        Resource::derive(self, field, scene)
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        Resource::index(self)
    }

    fn parts(&self, kind: &Part) -> Vec<Map<String, Value>> {
        Resource::parts(self, kind)
    }

    fn with_part(
        &self,
        kind: &Part,
        id: Uuid,
        fields: Option<Map<String, Value>>,
    ) -> Result<Arc<dyn Object>, Refusal> {
        let changed = Resource::with_part(self, kind, id, fields)?;
        Ok(Arc::new(changed))
    }

    fn same(&self, other: &dyn Object) -> bool {
        other
            .as_any()
            .downcast_ref::<T>()
            .is_some_and(|other| self == other)
    }

    fn stamped(&self, revision: u64, created_at: Seconds, updated_at: Seconds) -> Arc<dyn Object> {
        let mut copy = self.clone();
        let meta = copy.meta_mut();
        meta.revision_number = revision;
        meta.created_at = created_at;
        meta.updated_at = updated_at;
        Arc::new(copy)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_record(self: Arc<Self>) -> Arc<dyn Record> {
        self
    }
}

/// The object as its rules completed it (none after a delete), and what they want besides.
pub type Judged = (Option<Arc<dyn Object>>, Vec<Write>);

/// The functions of a typed resource, for tables that know no type.
pub trait Operations: fmt::Debug + Send + Sync {
    /// Stored bytes to a record.
    ///
    /// # Errors
    /// When they are not one.
    fn decode(&self, json: &[u8]) -> Result<Arc<dyn Record>, serde_json::Error>;

    /// Checked fields to an object.
    ///
    /// # Errors
    /// When a value is wrong in a way that only the typed half knows.
    fn build(&self, fields: Map<String, Value>) -> Result<Arc<dyn Object>, Refusal>;

    /// See [`Resource::asked_apart`].
    fn asked_apart(&self, field: &str) -> bool;

    /// See [`Resource::check_bulk`].
    ///
    /// # Errors
    /// When the bodies cannot go together.
    fn check_bulk(&self, bodies: &[Map<String, Value>]) -> Result<(), Refusal>;

    /// The object of a stored entry.
    fn object(&self, entry: &crate::store::Entry) -> Option<Arc<dyn Object>>;

    /// See [`Resource::granted`].
    fn granted(&self, read: &dyn Lookup, project: &str) -> Vec<Uuid>;

    /// All rules, one after the other; the object as they amended it, and further writes.
    ///
    /// # Errors
    /// The first refusal.
    fn judge(
        &self,
        view: &View,
        change: &Change<'_, dyn Object>,
        caller: &Caller,
    ) -> Result<Judged, Refusal>;

    /// What an action of the table does with an object.
    ///
    /// # Errors
    /// When it can't be done.
    fn act(
        &self,
        action: &str,
        view: &View,
        deed: &Deed<'_, dyn Object>,
        caller: &Caller,
    ) -> Result<Acted<Arc<dyn Object>>, Refusal>;

    /// The names of the actions that it can do.
    fn acts(&self) -> Vec<&'static str>;

    /// See [`Resource::once`].
    fn once(&self, change: &Change<'_, dyn Object>) -> Option<(&'static str, Value)>;
}

/// The [`Operations`] of `T`.
#[derive(Debug)]
pub struct Ops<T>(PhantomData<fn() -> T>);

impl<T> Ops<T> {
    /// For a [`Spec`].
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Ops<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn typed<T: Resource>(object: Option<&dyn Object>) -> Option<&T> {
    object.and_then(|object| object.as_any().downcast_ref())
}

impl<T: Resource> Operations for Ops<T> {
    fn decode(&self, json: &[u8]) -> Result<Arc<dyn Record>, serde_json::Error> {
        serde_json::from_slice::<T>(json).map(|value| Arc::new(value) as Arc<dyn Record>)
    }

    fn build(&self, mut fields: Map<String, Value>) -> Result<Arc<dyn Object>, Refusal> {
        T::intake(&mut fields)?;
        let built = serde_json::from_value::<T>(Value::Object(fields));
        built
            .map(|value| Arc::new(value) as Arc<dyn Object>)
            .map_err(|error| Refusal::input(format_args!("{}: {error}", T::SPEC.singular)))
    }

    fn asked_apart(&self, field: &str) -> bool {
        T::asked_apart(field)
    }

    fn check_bulk(&self, bodies: &[Map<String, Value>]) -> Result<(), Refusal> {
        T::check_bulk(bodies)
    }

    fn object(&self, entry: &crate::store::Entry) -> Option<Arc<dyn Object>> {
        entry.get::<T>().map(|value| value as Arc<dyn Object>)
    }

    fn granted(&self, read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        T::granted(read, project)
    }

    fn judge(
        &self,
        view: &View,
        change: &Change<'_, dyn Object>,
        caller: &Caller,
    ) -> Result<Judged, Refusal> {
        let before = typed::<T>(change.before);
        let mut after: Option<T> = typed::<T>(change.after).cloned();
        let mut writes = Vec::new();
        for rule in T::RULES {
            let change = Change {
                before,
                after: after.as_ref(),
                verb: change.verb,
                given: change.given,
                moment: change.moment,
            };
            for write in rule(view, &change, caller)? {
                if let Write::Amend(object) = write {
                    let Some(object) = object.as_any().downcast_ref::<T>() else {
                        unreachable!("a rule amends the object that it judges");
                    };
                    after = Some(object.clone());
                } else {
                    writes.push(write);
                }
            }
        }
        Ok((
            after.map(|object| Arc::new(object) as Arc<dyn Object>),
            writes,
        ))
    }

    fn act(
        &self,
        action: &str,
        view: &View,
        deed: &Deed<'_, dyn Object>,
        caller: &Caller,
    ) -> Result<Acted<Arc<dyn Object>>, Refusal> {
        let act = T::ACTS.iter().find(|(name, _)| *name == action);
        let (Some((_, act)), Some(object)) = (act, typed::<T>(Some(deed.object))) else {
            unreachable!("a table declares what its resource can do, and is asked about its own");
        };
        let deed = Deed {
            object,
            arguments: deed.arguments,
            moment: deed.moment,
        };
        let acted = act(view, &deed, caller)?;
        Ok(Acted {
            object: Arc::new(acted.object),
            writes: acted.writes,
            reply: acted.reply,
        })
    }

    fn acts(&self) -> Vec<&'static str> {
        T::ACTS.iter().map(|(name, _)| *name).collect()
    }

    fn once(&self, change: &Change<'_, dyn Object>) -> Option<(&'static str, Value)> {
        let after = typed::<T>(change.after)?;
        let change = Change {
            before: typed::<T>(change.before),
            after: Some(after),
            verb: change.verb,
            given: change.given,
            moment: change.moment,
        };
        after.once(&change)
    }
}

/// Typed reading of objects, by id, by index, or all.
pub trait Lookup {
    /// One entry.
    fn at(&self, key: &str) -> Option<crate::store::Entry>;
    /// The ids under an index key, in order.
    fn ids(&self, prefix: &str) -> Vec<Uuid>;
}

impl<R: Read> Lookup for R {
    fn at(&self, key: &str) -> Option<crate::store::Entry> {
        self.entry(key).cloned()
    }

    fn ids(&self, prefix: &str) -> Vec<Uuid> {
        self.scan(prefix)
            .filter_map(|(key, _)| key.rsplit('/').next()?.parse().ok())
            .collect()
    }
}

/// The prefix of an index: `by/port/network_id/UUID/`, then the id.
pub fn index_prefix(storage: &str, field: &str, value: impl fmt::Display) -> String {
    format!("by/{storage}/{field}/{value}/")
}

impl dyn Lookup + '_ {
    /// The object of this type and id.
    pub fn object<T: Resource>(&self, id: Uuid) -> Option<Arc<T>> {
        self.at(&T::SPEC.key(id))?.get()
    }

    /// The objects whose indexed field has this value.
    pub fn related<T: Resource>(&self, field: &str, value: impl fmt::Display) -> Vec<Arc<T>> {
        let ids = self.ids(&index_prefix(T::SPEC.storage, field, value));
        ids.into_iter().filter_map(|id| self.object(id)).collect()
    }
}

/// The same for concrete readers, without a cast at each call.
pub trait Objects: Read + Sized {
    /// The object of this type and id.
    fn object<T: Resource>(&self, id: Uuid) -> Option<Arc<T>> {
        self.get(&T::SPEC.key(id))
    }

    /// The objects whose indexed field has this value.
    fn related<T: Resource>(&self, field: &str, value: impl fmt::Display) -> Vec<Arc<T>> {
        let ids = self.ids(&index_prefix(T::SPEC.storage, field, value));
        ids.into_iter().filter_map(|id| self.object(id)).collect()
    }

    /// Is there an object whose indexed field has this value?
    fn any_related<T: Resource>(&self, field: &str, value: impl fmt::Display) -> bool {
        self.scan(&index_prefix(T::SPEC.storage, field, value))
            .next()
            .is_some()
    }

    /// All objects of this type, in the order of their ids.
    fn objects<T: Resource>(&self) -> Vec<Arc<T>> {
        let prefix = format!("{}/", T::SPEC.storage);
        self.scan(&prefix)
            .filter_map(|(_, entry)| entry.get())
            .collect()
    }
}

impl<R: Read> Objects for R {}

/// What a key stands for besides an object: who holds an exclusive thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The object that holds it.
    pub holder: Uuid,
}

/// The key of an address of a subnet; addresses sort by value.
pub fn address_key(subnet: Uuid, address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("ip/{subnet}/{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("ip/{subnet}/{:032x}", u128::from(address)),
    }
}
