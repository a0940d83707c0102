//! May the caller do this?
//!
//! The tables' columns judge by themselves; where a file of policies changed a rule ([`crate::policy`]) that one answers in their place. What a rule is
//! asked about is a [`Subject`]: an object as the caller would see it, with what the request says of it over it.

use crate::{
    api::{Scene, scene::permits},
    policy::{Check, Target, check::Rules},
    refusal::Refusal,
    resource::{Action, Field, Object, Part, Policy, Spec, Verb},
    resources::REGISTRY,
    rules::{Caller, Given, stored},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// What a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) scene: &'a Scene<'a>,
    pub(super) spec: &'static Spec,
    /// As it is; none before a create.
    pub(super) object: Option<&'a dyn Object>,
    /// What the request says of it.
    pub(super) said: Option<&'a Map<String, Value>>,
    /// Whose it will be.
    pub(super) project: Option<&'a str>,
    /// Is it about a part of the object, of which `said` are the fields?
    pub(super) part: bool,
}

impl<'a> Subject<'a> {
    /// An object as it is.
    pub(super) fn of(scene: &'a Scene<'a>, object: &'a dyn Object) -> Self {
        Self {
            scene,
            spec: object.spec(),
            object: Some(object),
            said: None,
            project: None,
            part: false,
        }
    }

    fn owner(&self) -> Option<&str> {
        self.project
            .or_else(|| Some(self.object?.meta().project_id.as_str()))
    }

    /// A field of the object itself.
    fn own(&self, name: &str) -> Option<Value> {
        let said = self.said.and_then(|said| {
            let asked = || said.get(&format!("asked:{name}"));
            said.get(name).or_else(asked)
        });
        if let Some(value) = said {
            return Some(value.clone());
        }
        if self.part {
            return None;
        }
        let field = self.spec.field(name)?;
        let object = self.object?;
        Some(self.scene.value(field, object, &mut object.to_map()))
    }

    /// What it is on, or a part of, by the name of its field without `_id`.
    fn parent(&self, name: &str) -> Option<Value> {
        let (parent, field) = name.split_once(':')?;
        let project = matches!(field, "project_id" | "tenant_id");
        if parent == "ext_parent" {
            if self.part {
                return self.object.map(|object| json!(object.meta().project_id));
            }
            let parent = EXT_PARENTS.iter().find(|(of, _)| *of == self.spec.storage);
            let (_, parent) = parent?;
            return self.parent(&format!("{parent}:{field}"));
        }
        let id = self.own(&format!("{parent}_id"))?;
        let id: Uuid = id.as_str()?.parse().ok()?;
        let spec = REGISTRY.iter().find(|spec| spec.singular == parent)?;
        let object = stored(self.scene.snapshot, spec, id)?;
        if project {
            return Some(json!(object.meta().project_id));
        }
        let field = spec.field(field)?;
        Some(
            self.scene
                .value(field, object.as_ref(), &mut object.to_map()),
        )
    }
}

/// What a resource is a part of, where that is another resource.
const EXT_PARENTS: &[(&str, &str)] = &[
    ("security_group_rule", "security_group"),
    ("metering_label_rule", "metering_label"),
    ("subnet", "network"),
    ("port", "network"),
];

impl Target for Subject<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        match name {
            "project_id" | "tenant_id" => self.owner().map(|project| json!(project)),
            name => self.own(name).or_else(|| self.parent(name)),
        }
    }

    fn field(&self, resource: &str, name: &str) -> Option<Value> {
        let is = |spec: &Spec| spec.singular == resource || spec.plural == resource;
        if self.spec.field(name).is_none() || !is(self.spec) {
            let of = REGISTRY.iter().find(|spec| is(spec))?;
            return self.parent(&format!("{}:{name}", of.singular));
        }
        self.own(name)
    }
}

/// Does the caller see a field?
#[derive(Debug, Clone, Copy)]
pub(super) enum Sight<'a> {
    Never,
    Always,
    /// Of the objects of which this holds.
    Where(&'a Check),
}

/// May the caller see this field?
pub(super) fn sight<'a>(spec: &Spec, field: &Field, caller: &'a Caller) -> Sight<'a> {
    if let Some(policies) = &caller.policies
        && field.read != Policy::Nobody
        && let Some(check) =
            policies.judge(&format!("{}:{}", spec.rule(Verb::Read), field.name), caller)
    {
        return Sight::Where(check);
    }
    if permits(field.read, caller) {
        Sight::Always
    } else {
        Sight::Never
    }
}

impl Scene<'_> {
    /// Does this rule of a file hold of an object?
    pub(super) fn holds(&self, check: &Check, object: &dyn Object) -> bool {
        let Some(policies) = &self.caller.policies else {
            return false;
        };
        let rules: &dyn Rules = policies.as_ref();
        check.holds(rules, self.caller, &Subject::of(self, object))
    }

    /// Does the caller see this field of the object?
    pub(super) fn sees(&self, field: &Field, object: &dyn Object) -> bool {
        match sight(object.spec(), field, self.caller) {
            Sight::Never => false,
            Sight::Always => true,
            Sight::Where(check) => self.holds(check, object),
        }
    }

    /// Does a changed rule let the caller see this object, of those that it may have?
    pub(super) fn shows(&self, object: &dyn Object) -> bool {
        let Some(policies) = &self.caller.policies else {
            return true;
        };
        let check = policies.judge(&object.spec().rule(Verb::Read), self.caller);
        check.is_none_or(|check| self.holds(check, object))
    }
}

/// May the caller do this with an object, or make it, and name these attributes?
///
/// # Errors
/// When a policy says no.
pub(super) fn authorise(
    subject: &Subject<'_>,
    verb: Verb,
    given: &Given,
    caller: &Caller,
) -> Result<(), Refusal> {
    let (spec, rule) = (subject.spec, subject.spec.rule(verb));
    let built_in = || {
        let object = subject.object;
        let owned = object.is_none_or(|object| caller.owns(&object.meta().project_id));
        owned && caller.member && permits(spec.policy, caller)
    };
    if !caller.told(&rule, subject).unwrap_or_else(built_in) {
        return Err(Refusal::denied(format!("rule:{rule}")));
    }
    // Who makes something that is not shared says what is so anyway.
    let unshared = verb == Verb::Create && subject.own("shared") == Some(Value::Bool(false));
    for name in given {
        let Some(field) = spec.field(name) else {
            continue;
        };
        if unshared && name == "shared" {
            continue;
        }
        let policy = if verb == Verb::Create {
            field.create
        } else {
            field.update
        };
        named(subject, &rule, name, permits(policy, caller), caller)?;
    }
    Ok(())
}

/// May the caller name this attribute, and the keys of it?
fn named(
    subject: &Subject<'_>,
    rule: &str,
    name: &str,
    built_in: bool,
    caller: &Caller,
) -> Result<(), Refusal> {
    let denied = |of: &str| Refusal::denied(format!("(rule:{rule} and rule:{of})"));
    if caller.policies.is_none() {
        let of = || denied(&format!("{rule}:{name}"));
        return if built_in { Ok(()) } else { Err(of()) };
    }
    let whole = format!("{rule}:{name}");
    if !caller.may(&whole, subject, built_in) {
        return Err(denied(&whole));
    }
    let mut keys: Vec<String> = Vec::new();
    match subject.own(name) {
        Some(Value::Object(object)) => keys.extend(object.keys().cloned()),
        Some(Value::Array(items)) => {
            let objects = items.iter().filter_map(Value::as_object);
            keys.extend(objects.flat_map(Map::keys).cloned());
        }
        _ => {}
    }
    for key in keys {
        let part = format!("{whole}:{key}");
        if !caller.may(&part, subject, true) {
            return Err(denied(&part));
        }
    }
    Ok(())
}

/// May the caller do this action with an object, with these arguments?
///
/// # Errors
/// When its policy says no.
pub(super) fn authorise_action(
    subject: &Subject<'_>,
    action: &Action,
    arguments: &Map<String, Value>,
    caller: &Caller,
) -> Result<(), Refusal> {
    let rule = action.rule;
    let built_in = || {
        let object = subject.object;
        let owned = object.is_none_or(|object| caller.owns(&object.meta().project_id));
        owned && caller.member && permits(action.policy, caller)
    };
    if !caller.told(rule, subject).unwrap_or_else(built_in) {
        return Err(Refusal::denied(format!("rule:{rule}")));
    }
    for field in action.arguments {
        if arguments.contains_key(field.name) {
            let built_in = permits(field.create, caller);
            named(subject, rule, field.name, built_in, caller)?;
        }
    }
    Ok(())
}

/// May the caller read of this at all?
///
/// # Errors
/// When it has no role.
pub(super) fn may_read(spec: &Spec, caller: &Caller) -> Result<(), Refusal> {
    // Octavia's lists are for those who may read at all, not for whoever has some role.
    let stranger = || {
        let of_octavia = spec.path.starts_with("lbaas/");
        of_octavia && !caller.is_usual() && !caller.is_changed(&spec.rule(Verb::Read))
    };
    if caller.roles.is_empty() || stranger() {
        return Err(Refusal::denied(format!("rule:get_{}", spec.singular)));
    }
    Ok(())
}

/// May the caller do this with a part?
///
/// # Errors
/// When a policy says no.
pub(super) fn authorise_part(
    subject: &Subject<'_>,
    kind: &Part,
    (verb, rule): (Verb, &str),
    caller: &Caller,
) -> Result<(), Refusal> {
    let built_in = match verb {
        Verb::Read => !caller.roles.is_empty(),
        Verb::Create | Verb::Update | Verb::Delete => caller.member && permits(kind.policy, caller),
    };
    if caller.may(rule, subject, built_in) {
        Ok(())
    } else {
        Err(Refusal::denied(format!("rule:{rule}")))
    }
}
