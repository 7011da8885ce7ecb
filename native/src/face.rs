//! What Python sees: the class `Engine` and the functions beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyImportError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::api;
use crate::blame::Blame;
use crate::context::EventInfo;
use crate::handle::Handle;
use crate::limits::{Limits, RESERVE_BYTES_MAX};
use crate::program::{self, Layers, Program, Source, Template};
use crate::request::{Arrival, What};
use crate::require;
use crate::sandbox;
use crate::shared::{In, OutKind};
use crate::vfs::{Layer, Vfs};
use crate::watchdog::Watchdog;

#[pyclass(frozen)]
struct Engine {
    handle: Handle,
    layers: Arc<Layers>,
    test_hooks: bool,
}

/// What is not limited by a deadline of its own still ends some day.
const TIMEOUT_MS_MAX: u64 = 86_400_000;

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, vm_memory_bytes=20 << 20, vm_reserve_bytes=None, cpu_bucket_ms=3_000, cpu_refill_percent=10, unbreakable_ms=50, slice_ms=5,
                        threads_max=2_000, timers_max=1_000, queue_events_max=1_000, host_calls_max=8, log_bytes_per_s=16_384,
                        error_bytes_max=4_096, source_bytes_max=262_144, idle_evict_ms=600_000, opening_ms=0, memory_budget_bytes=0,
                        builtins=Vec::new(), patches=Vec::new(), library=Vec::new(), builtins_entry="init",
                        builtins_caps=vec!["*".to_string()],
                        builtins_events=vec!["*".to_string()], runtime_info=vec![0x80], debug=false, blame_fd=-1, blame_slot=0,
                        test_hooks=false))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        vm_memory_bytes: usize,
        vm_reserve_bytes: Option<usize>,
        cpu_bucket_ms: u64,
        cpu_refill_percent: u32,
        unbreakable_ms: u64,
        slice_ms: u32,
        threads_max: usize,
        timers_max: usize,
        queue_events_max: usize,
        host_calls_max: usize,
        log_bytes_per_s: u64,
        error_bytes_max: usize,
        source_bytes_max: usize,
        idle_evict_ms: u64,
        opening_ms: u64,
        memory_budget_bytes: usize,
        builtins: Vec<u8>,
        patches: Vec<u8>,
        library: Vec<u8>,
        builtins_entry: &str,
        builtins_caps: Vec<String>,
        builtins_events: Vec<String>,
        runtime_info: Vec<u8>,
        debug: bool,
        blame_fd: i32,
        blame_slot: usize,
        test_hooks: bool,
    ) -> PyResult<Self> {
        program::set_source_bytes_max(source_bytes_max);
        let layers = Arc::new(Layers::parse(&patches, &builtins, &library).map_err(PyValueError::new_err)?);
        let limits = Limits {
            vm_memory_bytes,
            vm_reserve_bytes: vm_reserve_bytes.unwrap_or(vm_memory_bytes).min(RESERVE_BYTES_MAX),
            cpu_bucket: Duration::from_millis(cpu_bucket_ms),
            cpu_refill_percent,
            unbreakable: Duration::from_millis(unbreakable_ms),
            slice_ms: slice_ms.max(1),
            threads_max,
            timers_max,
            queue_events_max,
            host_calls_max: host_calls_max.max(1),
            log_bytes_per_s,
            error_bytes_max: error_bytes_max.max(64),
            idle_evict: Duration::from_millis(idle_evict_ms),
            opening: Duration::from_millis(opening_ms),
            memory_budget_bytes,
            builtins: Template::builtins(&layers, builtins_entry, &builtins_caps, &builtins_events),
            layers: layers.clone(),
            runtime_info: [&[0x91], &runtime_info[..]].concat().into(),
            debug,
            test_hooks,
        };
        let blame =
            if blame_fd < 0 { None } else { Some(Blame::new(blame_fd, blame_slot).map_err(|e| PyOSError::new_err(e.to_string()))?) };
        let handle = Handle::start(limits, blame).map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        Ok(Engine { handle, layers, test_hooks })
    }

    fn set_program(&self, tenant: u64, program: &[u8]) -> PyResult<()> {
        let program = Program::parse(program, &self.layers).map_err(PyValueError::new_err)?;
        self.send(In::Program { tenant, program })
    }

    fn has_program(&self, tenant: u64) -> bool {
        self.handle.has_program(tenant)
    }

    #[pyo3(signature = (tenant, request, name, payload, author=None, redelivered=false, timeout_ms=60_000))]
    #[allow(clippy::too_many_arguments)]
    fn submit_event(
        &self,
        tenant: u64,
        request: u64,
        name: &str,
        payload: &[u8],
        author: Option<&str>,
        redelivered: bool,
        timeout_ms: u64,
    ) -> PyResult<()> {
        let event = EventInfo { request, name: name.into(), payload: payload.into(), author: author.map(Box::from), redelivered };
        self.submit(tenant, What::Event, None, event, timeout_ms)
    }

    #[pyo3(signature = (tenant, request, chunk_name, source, event_name, payload, timeout_ms=60_000))]
    #[allow(clippy::too_many_arguments)]
    fn submit_script(
        &self,
        tenant: u64,
        request: u64,
        chunk_name: &str,
        source: &[u8],
        event_name: &str,
        payload: &[u8],
        timeout_ms: u64,
    ) -> PyResult<()> {
        let event = EventInfo { request, name: event_name.into(), payload: payload.into(), author: None, redelivered: false };
        self.submit(tenant, What::Script(Source::shared(source)), Some(Template::script(chunk_name, &self.layers)), event, timeout_ms)
    }

    #[pyo3(signature = (tenant, request, template, timeout_ms=5_000))]
    fn submit_check(&self, tenant: u64, request: u64, template: &[u8], timeout_ms: u64) -> PyResult<()> {
        let template = Template::parse(template, &self.layers).map_err(PyValueError::new_err)?;
        let event = EventInfo { request, name: "".into(), payload: Box::default(), author: None, redelivered: false };
        self.submit(tenant, What::Check, Some(template), event, timeout_ms)
    }

    fn cancel(&self, request: u64) -> PyResult<()> {
        self.send(In::Cancel { request })
    }

    fn drop_tenant(&self, tenant: u64, request: u64) -> PyResult<()> {
        self.send(In::Drop { tenant, request })
    }

    fn answer(&self, call: u64, payload: &[u8]) {
        // An engine that takes nothing more has no use for answers either.
        let _ = self.handle.send(In::Answer { call, payload: payload.into(), error: false });
    }

    fn answer_error(&self, call: u64, text: &str) {
        let _ = self.handle.send(In::Answer { call, payload: text.as_bytes().into(), error: true });
    }

    fn set_current_user(&self, user: &[u8]) {
        self.handle.shared.user.set(user);
    }

    fn fileno(&self) -> i32 {
        self.handle.shared.eventfd
    }

    fn linger<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        if py.detach(|| self.handle.shared.linger()) { self.drain(py) } else { Ok(PyList::empty(py)) }
    }

    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for out in self.handle.shared.take() {
            list.append((out.kind as u8, out.tenant, out.id, PyBytes::new(py, &out.payload)))?;
        }
        Ok(list)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, value) in self.handle.shared.stats.all() {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.handle.stop());
    }

    fn panic(&self) -> PyResult<()> {
        if !self.test_hooks {
            return Err(PyRuntimeError::new_err("the engine was made without test_hooks"));
        }
        self.send(In::Panic)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // While the interpreter ends it cannot be attached to; the VM thread needs no GIL, so waiting with it is safe.
        if Python::try_attach(|py| py.detach(|| self.handle.stop())).is_none() {
            self.handle.stop();
        }
    }
}

impl Engine {
    fn send(&self, item: In) -> PyResult<()> {
        self.handle.send(item).map_err(PyRuntimeError::new_err)
    }

    fn submit(&self, tenant: u64, what: What, template: Option<Arc<Template>>, event: EventInfo, timeout_ms: u64) -> PyResult<()> {
        let accepted = Instant::now();
        let deadline = accepted + Duration::from_millis(timeout_ms.min(TIMEOUT_MS_MAX));
        let templates = template.into_iter().collect();
        let arrival = Box::new(Arrival { id: event.request, what, event: event.into(), templates, accepted, deadline, weight: None });
        self.send(In::Request { tenant, arrival })
    }
}

#[pyfunction]
fn compile_check(py: Python<'_>, chunk_name: &str, source: &[u8]) -> Option<(u32, String)> {
    let _ = chunk_name;
    let source = source.to_vec();
    py.detach(|| program::compile(&source)).err().map(|e| (e.line, e.text))
}

/// Why each path that a file requires means nothing; None where it means something.
#[pyfunction]
fn resolve_requires(files: &[u8], requires: Vec<(String, String)>) -> PyResult<Vec<Option<String>>> {
    let vfs = Layer::parse(files).and_then(|layer| Vfs::new([layer])).map_err(PyValueError::new_err)?;
    let cause = |(file, path): &(String, String)| {
        if api::is_registered(&path.to_lowercase()) {
            return None;
        }
        require::resolve(&vfs, file.trim_start_matches('/'), path).err()
    };
    Ok(requires.iter().map(cause).collect())
}

#[pyfunction]
fn watchdog(master_pidfd: i32, deaf_ms: u64, exit_on_deaf: bool) -> PyResult<()> {
    let watchdog = Watchdog { master_pidfd, deaf: Duration::from_millis(deaf_ms), exit_on_deaf };
    watchdog.start().map_err(|e| PyRuntimeError::new_err(e.to_string()))
}

pub fn init_pymodule(module: &Bound<'_, PyModule>) -> PyResult<()> {
    sandbox::set_flags().map_err(PyImportError::new_err)?;
    module.add_class::<Engine>()?;
    module.add_function(wrap_pyfunction!(compile_check, module)?)?;
    module.add_function(wrap_pyfunction!(resolve_requires, module)?)?;
    module.add_function(wrap_pyfunction!(watchdog, module)?)?;
    module.add("LUAU_VERSION", mlua::ffi::luau_version().unwrap_or("unknown"))?;
    for (name, kind) in [
        ("RESULT", OutKind::Result),
        ("FAILED", OutKind::Failed),
        ("HOST_CALL", OutKind::HostCall),
        ("LOG", OutKind::Log),
        ("DEAF", OutKind::Deaf),
        ("LOST", OutKind::Lost),
    ] {
        module.add(name, kind as u8)?;
    }
    Ok(())
}
